/* SPDX-License-Identifier: BSD-2-Clause */
/* The layout of an encoding: prefixes, opcode map, ModR/M, displacement (SDM 2A chapter 2). */
#include "cpu/decode/dec_int.h"

#include <vmcore/x86_state.h>

static bool legacy_prefix(uint8_t c, struct dec_scan *s)
{
    switch (c) {
    case 0x66:
        s->p66 = true;
        return true;
    case 0x67:
        s->p67 = true;
        return true;
    case 0xf0:
        s->lock = true;
        return true;
    case 0xf2:
    case 0xf3:
        s->rep = c;
        return true;
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
        if (s->bits != 64) /* ignored in 64-bit mode, also when it follows FS or GS */
            s->seg = (uint8_t)((c >> 3) & 3);
        return true;
    case 0x64:
        s->seg = VMC_FS;
        return true;
    case 0x65:
        s->seg = VMC_GS;
        return true;
    default:
        return false;
    }
}

static void sizes(struct dec_scan *s)
{
    if (s->bits == 64) {
        s->opsize = (s->rex & 8) ? 8 : s->p66 ? 2 : 4;
        s->addrsize = s->p67 ? 4 : 8;
    } else {
        bool w = s->bits == 32;
        s->opsize = w != s->p66 ? 4 : 2;
        s->addrsize = w != s->p67 ? 4 : 2;
    }
}

/* VEX at b[i]: its fields. The bytes are there. */
static void vex_fields(const uint8_t *b, unsigned i, struct dec_scan *s)
{
    bool three = b[i] == 0xc4;
    uint8_t last = b[i + (three ? 2 : 1)];

    s->bad = s->lock || s->p66 || s->rep != 0 || s->rex != 0;
    s->rex = (uint8_t)(0x40 | ((~b[i + 1] >> 5) & 4));
    s->map = VMCI_MAP_0F;
    if (three) {
        s->rex |= (uint8_t)(((~b[i + 1] >> 5) & 3) | ((last >> 4) & 8));
        s->map = b[i + 1] & 0x1f;
        s->bad |= s->map < 1 || s->map > 3;
    }
    if (s->bits != 64)
        s->rex &= 0x48;
    s->vex = true;
    s->vex_v = (uint8_t)((~last >> 3) & 15);
    s->vex_lpp = (uint8_t)((last & 4) | (last & 3));
    s->opcode_off = (uint8_t)(i + (three ? 3 : 2));
}

static int need(unsigned have)
{
    return have >= VMCI_INSN_MAX ? VMCI_DEC_TOO_LONG : VMCI_DEC_MORE;
}

/* Opcode map escape bytes from i on. */
static int opcode_map(const uint8_t *b, unsigned n, unsigned i, struct dec_scan *s)
{
    if (i >= n)
        return need(n);
    s->map = VMCI_MAP_1B;
    if (b[i] == 0x0f) {
        s->map = VMCI_MAP_0F;
        if (++i >= n)
            return need(n);
        if (b[i] == 0x38 || b[i] == 0x3a) {
            s->map = b[i] == 0x38 ? VMCI_MAP_0F38 : VMCI_MAP_0F3A;
            if (++i >= n)
                return need(n);
        }
    }
    s->opcode_off = (uint8_t)i;
    return 1;
}

int dec_scan(const uint8_t *b, unsigned n, unsigned bits, struct dec_scan *s)
{
    *s = (struct dec_scan){.bits = (uint8_t)bits, .seg = VMC_SREGS};
    unsigned i = 0;

    while (i < n && legacy_prefix(b[i], s))
        i++;
    /* A REX prefix counts only directly before the opcode; earlier ones are dropped. */
    while (bits == 64 && i < n && (b[i] & 0xf0) == 0x40) {
        s->rex = b[i++];
        if (i < n && legacy_prefix(b[i], s)) {
            s->rex = 0;
            do
                i++;
            while (i < n && legacy_prefix(b[i], s));
        }
    }
    if (i >= n)
        return need(n);
    s->prefix_end = (uint8_t)(s->rex != 0 ? i - 1 : i);

    uint8_t c = b[i];
    if (c == 0xc4 || c == 0xc5 || c == 0x62 || c == 0x8f) {
        if (i + 1 >= n)
            return need(n);
        bool ext = bits == 64 || b[i + 1] >= 0xc0;
        s->evex = c == 0x62 && ext;
        s->xop = c == 0x8f && (b[i + 1] & 0x1f) >= 8;
        if ((c == 0xc4 || c == 0xc5) && ext) {
            unsigned last = i + (c == 0xc4 ? 3 : 2);
            if (last >= n)
                return need(n);
            s->prefix_end = (uint8_t)i;
            vex_fields(b, i, s);
        }
    }
    if (!s->vex) {
        int rc = opcode_map(b, n, i, s);
        if (rc <= 0)
            return rc;
    }
    s->opcode = b[s->opcode_off];
    s->pp = s->vex           ? s->vex_lpp & 3
            : s->rep == 0xf3 ? 2
            : s->rep == 0xf2 ? 3
            : s->p66         ? 1
                             : 0;
    sizes(s);
    if (s->vex && bits != 64)
        s->opsize = (s->rex & 8) ? 4 : s->opsize;
    return 1;
}

static void modrm16(const struct dec_scan *s, uint8_t m, const uint8_t *p, unsigned *used,
                    struct vmci_insn *in)
{
    static const uint8_t base[8] = {VMC_RBX, VMC_RBX, VMC_RBP, VMC_RBP,
                                    VMC_RSI, VMC_RDI, VMC_RBP, VMC_RBX};
    static const uint8_t index[8] = {VMC_RSI,       VMC_RDI,       VMC_RSI,       VMC_RDI,
                                     VMCI_REG_ZERO, VMCI_REG_ZERO, VMCI_REG_ZERO, VMCI_REG_ZERO};
    unsigned mod = m >> 6, rm = m & 7;

    in->base = base[rm];
    in->index = index[rm];
    if (mod == 0 && rm == 6)
        in->base = VMCI_REG_ZERO;
    in->disp_bytes = mod == 1 ? 1 : mod == 2 || (mod == 0 && rm == 6) ? 2 : 0;
    if (in->disp_bytes == 1)
        in->disp = (int8_t)p[0];
    else if (in->disp_bytes == 2)
        in->disp = (int16_t)vmci_ld_le16(p);
    *used = in->disp_bytes;
    in->seg = in->base == VMC_RBP ? VMC_SS : VMC_DS;
    (void)s;
}

static void modrm32(const struct dec_scan *s, uint8_t m, const uint8_t *p, unsigned *used,
                    struct vmci_insn *in)
{
    unsigned mod = m >> 6, rm = m & 7, n = 0;

    in->disp_bytes = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    in->base = (uint8_t)(rm | (s->rex & 1) << 3);
    in->index = VMCI_REG_ZERO;
    if (rm == 4) {
        uint8_t sib = p[n++];
        unsigned idx = ((sib >> 3) & 7u) | (s->rex & 2u) << 2;
        in->scale = sib >> 6;
        in->base = (uint8_t)((sib & 7) | (s->rex & 1) << 3);
        if (idx != 4)
            in->index = (uint8_t)idx;
        else
            in->scale = 0;
        if ((sib & 7) == 5 && mod == 0) {
            in->base = VMCI_REG_ZERO;
            in->disp_bytes = 4;
        }
    } else if (rm == 5 && mod == 0) {
        in->base = s->bits == 64 ? VMCI_REG_IP : VMCI_REG_ZERO;
        in->disp_bytes = 4;
    }
    if (in->disp_bytes == 1)
        in->disp = (int8_t)p[n];
    else if (in->disp_bytes == 4)
        in->disp = (int32_t)vmci_ld_le32(p + n);
    *used = n + in->disp_bytes;
    in->seg = in->base == VMC_RBP || in->base == VMC_RSP ? VMC_SS : VMC_DS;
}

unsigned dec_modrm(const struct dec_scan *s, const uint8_t *b, unsigned off, struct vmci_insn *in)
{
    uint8_t m = b[off];
    unsigned used = 0;

    in->modrm_off = (uint8_t)off;
    in->base = in->index = VMCI_REG_ZERO;
    in->seg = VMC_DS;
    if (m < 0xc0) {
        if (s->addrsize == 2)
            modrm16(s, m, b + off + 1, &used, in);
        else
            modrm32(s, m, b + off + 1, &used, in);
        if (s->addrsize != 2 && (m & 7) == 4)
            in->sib_off = (uint8_t)(off + 1);
        if (in->disp_bytes != 0)
            in->disp_off = (uint8_t)(off + 1 + used - in->disp_bytes);
    }
    return off + 1 + used;
}
