/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MMIO by MOV, MOVZX and MOVSX of 64-bit code, which is how drivers do it: decoded here, where the
 * address is known from the exit, and given to the device. Everything else is the software CPU's.
 */
#include "cpu/hw/hw_hot.h"

#define REX_W 8u
#define REX_R 4u
#define REX_X 2u
#define REX_B 1u

/* A MOV between a register or a constant and memory. */
struct move {
    bool write, sign, constant;
    uint8_t bytes;  /* in memory */
    uint8_t result; /* a read: of the register that changes */
    uint8_t gpr, len;
    uint64_t value;  /* of a constant */
    uint64_t offset; /* effective address */
};

/* Effective address of ModRM at p[*at], in 64-bit mode. False: it is a register. */
static bool address(struct hw_vcpu *v, const uint8_t *p, unsigned *at, unsigned rex, uint64_t *ea)
{
    unsigned i = *at;
    uint8_t modrm = p[i++], mod = modrm >> 6, rm = modrm & 7;
    uint64_t sum = 0;

    if (mod == 3)
        return false;
    if (rm == 4) {
        uint8_t sib = p[i++];
        unsigned index = (sib >> 3 & 7) | (rex & REX_X) << 2;
        if (index != 4)
            sum += *hw_gpr(v, index) << (sib >> 6);
        rm = sib & 7;
        if (mod != 0 || rm != 5)
            sum += *hw_gpr(v, rm | (rex & REX_B) << 3);
        else
            mod = 4;                  /* a displacement of 4 bytes alone */
    } else if (mod == 0 && rm == 5) { /* relative to the next instruction, which starts behind: */
        return false;
    } else {
        sum += *hw_gpr(v, rm | (rex & REX_B) << 3);
    }
    if (mod == 1) {
        sum += (uint64_t)(int8_t)p[i];
        i += 1;
    } else if (mod == 2 || mod == 4) {
        sum += (uint64_t)(int32_t)vmci_ld_le32(p + i);
        i += 4;
    }
    *at = i;
    *ea = sum;
    return true;
}

/* p: at least 15 bytes. False: not one of ours. */
static bool decode(struct hw_vcpu *v, const uint8_t *p, struct move *m)
{
    unsigned i = 0, rex = 0, size = 4;

    if (p[i] == 0x66) {
        size = 2;
        i++;
    }
    if ((p[i] & 0xf0) == 0x40)
        rex = p[i++];
    if (rex & REX_W)
        size = 8;
    uint8_t op = p[i++];
    bool two = op == 0x0f;
    if (two)
        op = p[i++];
    *m = (struct move){.result = (uint8_t)size};
    if (two && (op & 0xf6) == 0xb6) { /* MOVZX, MOVSX */
        m->sign = (op & 8) != 0;
        m->bytes = (op & 1) ? 2 : 1;
    } else if (!two && (op & 0xfc) == 0x88) {
        m->write = (op & 2) == 0;
        m->bytes = (op & 1) ? (uint8_t)size : 1;
        m->result = m->bytes;
    } else if (!two && (op & 0xfe) == 0xc6) {
        m->write = m->constant = true;
        m->bytes = (op & 1) ? (uint8_t)size : 1;
    } else {
        return false;
    }
    unsigned reg = (p[i] >> 3 & 7);
    if (m->constant ? reg != 0 : (m->bytes == 1 && !two && rex == 0 && reg >= 4))
        return false; /* undefined; AH, CH, DH, BH */
    m->gpr = (uint8_t)(reg | (rex & REX_R) << 1);
    if (!address(v, p, &i, rex, &m->offset))
        return false;
    if (m->constant) {
        unsigned n = m->bytes == 8 ? 4 : m->bytes;
        m->value = n == 1   ? p[i]
                   : n == 2 ? vmci_ld_le16(p + i)
                            : (uint64_t)(int32_t)vmci_ld_le32(p + i);
        i += n;
    }
    m->len = (uint8_t)i;
    return i <= 15;
}

static uint64_t ones(unsigned bytes)
{
    return bytes >= 8 ? UINT64_MAX : (1ull << 8 * bytes) - 1;
}

static void take_result(struct hw_vcpu *v, const struct move *m, uint64_t data)
{
    uint64_t *r = hw_gpr(v, m->gpr);

    data &= ones(m->bytes);
    if (m->sign && (data >> (8 * m->bytes - 1) & 1) != 0)
        data |= ~ones(m->bytes);
    if (m->result >= 4) /* 32-bit results clear the upper half */
        *r = data & ones(m->result);
    else
        *r = (*r & ~ones(m->result)) | (data & ones(m->result));
    if (m->gpr == VMC_RSP)
        hw_changed(v, HW_ST_RSP);
}

int hw_on_mmio(struct hw_vcpu *v, uint64_t gpa, struct vmc_exit *x)
{
    const struct hw_vendor *vd = v->vm->vendor;
    struct move m;
    uint64_t cr3;

    if (unlikely(v->io->mmio == NULL || v->st.injected.type != VMC_EV_NONE ||
                 (v->st.rflags & VMC_FLAG_TF) != 0 || !vd->code64(v, &cr3)))
        return hw_emulate(v, 1, x);
    const uint8_t *p = unlikely(v->vm->fetches) ? vd->fetched(v) : NULL;
    if (p == NULL)
        p = hw_code_at(v, v->st.rip, cr3);
    /* That the address fits tells it from a table of the guest in a device. */
    if (p == NULL || !decode(v, p, &m) || ((m.offset ^ gpa) & (VMC_PAGE_SIZE - 1)) != 0 ||
        (gpa & (VMC_PAGE_SIZE - 1)) + m.bytes > VMC_PAGE_SIZE)
        return hw_emulate(v, 1, x);
    uint64_t data = !m.write ? 0 : (m.constant ? m.value : *hw_gpr(v, m.gpr)) & ones(m.bytes);
    hw_callback(v);
    vd->tpr_out(v);
    int rc = v->io->mmio(v->io->ctx, m.write, gpa, m.bytes, &data);
    vd->tpr_in(v);
    if (unlikely(rc != VMC_IO_DONE)) /* without effect so far */
        return hw_emulate(v, 1, x);
    v->stat[HW_STAT_MMIO]++;
    if (!m.write)
        take_result(v, &m, data);
    hw_skip(v, m.len);
    return HW_RESUME;
}
