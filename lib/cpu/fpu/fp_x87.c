/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * x87 control instructions that show or load the environment (SDM 1 8.1, figures 8-9 to 8-12). The
 * environment is handled in memory, because the unit's own instruction and data pointers are those
 * of the thunks.
 */
#include "fp_int.h"

/* ---- environment ----------------------------------------------------------------------------- */

/* Tag of a register that is not empty: 0 valid, 1 zero, 2 special. */
static unsigned tag_of(const uint8_t st[16])
{
    unsigned e = vmci_ld_le16(st + 8) & 0x7fffu;
    uint64_t m = vmci_ld_le64(st);
    if (e == 0)
        return m == 0 ? 1 : 2;
    if (e == 0x7fff || !(m >> 63))
        return 2;
    return 0;
}

/* The full tag word; st[] is relative to the top, tags to the physical registers. */
static uint16_t full_tags(const struct vmci_xsave *a)
{
    unsigned top = (a->fsw >> 11) & 7, tags = 0;
    for (unsigned i = 0; i < 8; i++) {
        unsigned t = (a->ftw >> i & 1) ? tag_of(a->st[(i - top) & 7]) : 3;
        tags |= t << (2 * i);
    }
    return (uint16_t)tags;
}

static uint8_t short_tags(uint16_t full)
{
    unsigned m = 0;
    for (unsigned i = 0; i < 8; i++) {
        if ((full >> (2 * i) & 3) != 3)
            m |= 1u << i;
    }
    return (uint8_t)m;
}

/* Real and virtual-8086 mode store linear addresses instead of selectors. */
static bool real_format(const struct vmci_cpu *cpu)
{
    return !vmci_prot_mode(cpu) || vmci_v86_mode(cpu);
}

static void put_env16(struct vmci_cpu *cpu, uint8_t *p)
{
    const struct vmci_fp *fp = cpu->fp;
    bool zero = vmci_fp_no_selectors(cpu);
    vmci_st_le16(p, fp->area.fcw);
    vmci_st_le16(p + 2, fp->area.fsw);
    vmci_st_le16(p + 4, full_tags(&fp->area));
    if (real_format(cpu)) {
        uint32_t ip = (uint32_t)fp->fip + ((uint32_t)fp->fcs << 4);
        uint32_t dp = (uint32_t)fp->fdp + ((uint32_t)fp->fds << 4);
        vmci_st_le16(p + 6, (uint16_t)ip);
        vmci_st_le16(p + 8, (uint16_t)((ip >> 4 & 0xf000) | fp->fop));
        vmci_st_le16(p + 10, (uint16_t)dp);
        vmci_st_le16(p + 12, (uint16_t)(dp >> 4 & 0xf000));
    } else {
        vmci_st_le16(p + 6, (uint16_t)fp->fip);
        vmci_st_le16(p + 8, zero ? 0 : fp->fcs);
        vmci_st_le16(p + 10, (uint16_t)fp->fdp);
        vmci_st_le16(p + 12, zero ? 0 : fp->fds);
    }
}

static void put_env32(struct vmci_cpu *cpu, uint8_t *p)
{
    const struct vmci_fp *fp = cpu->fp;
    bool zero = vmci_fp_no_selectors(cpu);
    vmci_st_le32(p, fp->area.fcw | 0xffff0000u);
    vmci_st_le32(p + 4, fp->area.fsw | 0xffff0000u);
    vmci_st_le32(p + 8, full_tags(&fp->area) | 0xffff0000u);
    if (real_format(cpu)) {
        uint32_t ip = (uint32_t)fp->fip + ((uint32_t)fp->fcs << 4);
        uint32_t dp = (uint32_t)fp->fdp + ((uint32_t)fp->fds << 4);
        vmci_st_le32(p + 12, (ip & 0xffff) | 0xffff0000u);
        vmci_st_le32(p + 16, ((ip >> 16) << 12) | fp->fop);
        vmci_st_le32(p + 20, (dp & 0xffff) | 0xffff0000u);
        vmci_st_le32(p + 24, (dp >> 16) << 12);
    } else {
        vmci_st_le32(p + 12, (uint32_t)fp->fip);
        vmci_st_le32(p + 16, (zero ? 0u : fp->fcs) | (uint32_t)fp->fop << 16);
        vmci_st_le32(p + 20, (uint32_t)fp->fdp);
        vmci_st_le32(p + 24, (zero ? 0u : fp->fds) | 0xffff0000u);
    }
}

static void get_env16(struct vmci_cpu *cpu, const uint8_t *p)
{
    struct vmci_fp *fp = cpu->fp;
    fp->area.fcw = vmci_ld_le16(p);
    fp->area.fsw = vmci_ld_le16(p + 2);
    fp->area.ftw = short_tags(vmci_ld_le16(p + 4));
    fp->fop = 0;
    fp->fip = vmci_ld_le16(p + 6);
    fp->fdp = vmci_ld_le16(p + 10);
    if (real_format(cpu)) {
        fp->fip |= (uint64_t)(vmci_ld_le16(p + 8) & 0xf000u) << 4;
        fp->fdp |= (uint64_t)(vmci_ld_le16(p + 12) & 0xf000u) << 4;
        fp->fop = vmci_ld_le16(p + 8) & 0x7ff;
        fp->fcs = fp->fds = 0;
    } else {
        fp->fcs = vmci_ld_le16(p + 8);
        fp->fds = vmci_ld_le16(p + 12);
    }
}

static void get_env32(struct vmci_cpu *cpu, const uint8_t *p)
{
    struct vmci_fp *fp = cpu->fp;
    uint32_t w = vmci_ld_le32(p + 16);
    fp->area.fcw = vmci_ld_le16(p);
    fp->area.fsw = vmci_ld_le16(p + 4);
    fp->area.ftw = short_tags(vmci_ld_le16(p + 8));
    if (real_format(cpu)) {
        fp->fip = vmci_ld_le16(p + 12) | (uint64_t)(w >> 12 & 0xffff) << 16;
        fp->fdp = vmci_ld_le16(p + 20) | (uint64_t)(vmci_ld_le32(p + 24) >> 12 & 0xffff) << 16;
        fp->fop = w & 0x7ff;
        fp->fcs = fp->fds = 0;
    } else {
        fp->fip = vmci_ld_le32(p + 12);
        fp->fcs = (uint16_t)w;
        fp->fop = (w >> 16) & 0x7ff;
        fp->fdp = vmci_ld_le32(p + 20);
        fp->fds = vmci_ld_le16(p + 24);
    }
}

static void put_env(struct vmci_cpu *cpu, uint8_t *p, bool op16)
{
    if (op16)
        put_env16(cpu, p);
    else
        put_env32(cpu, p);
}

static void get_env(struct vmci_cpu *cpu, const uint8_t *p, bool op16)
{
    if (op16)
        get_env16(cpu, p);
    else
        get_env32(cpu, p);
    cpu->fp->area.fcw = (cpu->fp->area.fcw & 0x1f7f) | 0x40;
    vmci_fp_refresh(cpu->fp);
}

/* Memory helpers take at most 64 bytes at a time. */
static int rd_pieces(struct vmci_cpu *cpu, uint64_t la, uint8_t *p, unsigned bytes)
{
    for (unsigned at = 0; at < bytes; at += 64) {
        int r = vmci_rd_block(cpu, la + at, p + at, VMCI_MIN(64u, bytes - at));
        if (r != 0)
            return r;
    }
    return 0;
}

static int wr_pieces(struct vmci_cpu *cpu, uint64_t la, const uint8_t *p, unsigned bytes)
{
    int r = 0;
    for (unsigned at = 0; at < bytes && r == 0; at += 64)
        r = vmci_probe_wr(cpu, la + at, VMCI_MIN(64u, bytes - at));
    for (unsigned at = 0; at < bytes && r == 0; at += 64)
        r = vmci_wr_block(cpu, la + at, p + at, VMCI_MIN(64u, bytes - at));
    return r;
}

static void init_unit(struct vmci_fp *fp)
{
    vmci_fp_rotate(fp, 8u - ((fp->area.fsw >> 11) & 7));
    fp->area.fcw = VMCI_FCW_INIT;
    fp->area.fsw = 0;
    fp->area.ftw = 0;
    fp->fip = fp->fdp = 0;
    fp->fcs = fp->fds = fp->fop = 0;
    fp->x87_check = false;
}

static int store_env(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t,
                     uint64_t la, bool regs)
{
    struct vmci_fp *fp = cpu->fp;
    uint8_t buf[108];
    unsigned bytes = t->form.mem_bytes;
    bool op16 = bytes == 14 || bytes == 94;
    unsigned env = op16 ? 14 : 28;
    put_env(cpu, buf, op16);
    for (unsigned i = 0; regs && i < 8; i++)
        vmci_fp_copy(buf + env + i * 10, fp->area.st[i], 10);
    int r = vmci_fp_wraps(in, vmci_ea(cpu, in), bytes) ? vmci_fp_wrapped_write(cpu, in, buf, bytes)
                                                       : wr_pieces(cpu, la, buf, bytes);
    if (r != 0)
        return r;
    vmci_fp_park(cpu); /* a callback may have run; it cannot have loaded the state, but be sure */
    if (regs) {
        init_unit(fp);
    } else {
        fp->area.fcw |= VMCI_FCW_MASKS;
        vmci_fp_refresh(fp);
    }
    return 0;
}

static int load_env(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t,
                    uint64_t la, bool regs)
{
    struct vmci_fp *fp = cpu->fp;
    uint8_t buf[108];
    unsigned bytes = t->form.mem_bytes;
    bool op16 = bytes == 14 || bytes == 94;
    unsigned env = op16 ? 14 : 28;
    int r = vmci_fp_wraps(in, vmci_ea(cpu, in), bytes) ? vmci_fp_wrapped_read(cpu, in, buf, bytes)
                                                       : rd_pieces(cpu, la, buf, bytes);
    if (r != 0)
        return r;
    vmci_fp_park(cpu);
    unsigned top = (fp->area.fsw >> 11) & 7;
    get_env(cpu, buf, op16);
    if (!regs) /* another top: the same registers by other names */
        vmci_fp_rotate(fp, ((fp->area.fsw >> 11) - top) & 7);
    for (unsigned i = 0; regs && i < 8; i++)
        vmci_fp_copy(fp->area.st[i], buf + env + i * 10, 10);
    return 0;
}

static int load_cw(struct vmci_cpu *cpu, struct vmci_thunk *t, uint64_t la)
{
    uint64_t cw;
    uint16_t v;
    int r = vmci_rd(cpu, la, 2, &cw);
    if (r != 0)
        return r;
    v = (uint16_t)cw;
    vmci_fp_run(cpu->fp, t->fn, &v, 0);
    cpu->fp->x87_check = (v & VMCI_FCW_MASKS) != VMCI_FCW_MASKS;
    return 0;
}

/* FNSTCW and FNSTSW to memory change nothing in the unit: no undo. */
static int store_word(struct vmci_cpu *cpu, struct vmci_thunk *t, uint64_t la)
{
    uint16_t v = 0;
    vmci_fp_run(cpu->fp, t->fn, &v, 0);
    return vmci_wr(cpu, la, 2, v);
}

static bool waiting(unsigned special)
{
    return special == VMCI_FS_FLDCW || special == VMCI_FS_FLDENV || special == VMCI_FS_FRSTOR;
}

int vmci_fp_x87_ctl(struct vmci_cpu *cpu, const struct vmci_insn *in, struct vmci_thunk *t)
{
    struct vmci_fp *fp = cpu->fp;
    uint64_t la = 0;
    int r;
    if (waiting(t->form.special)) {
        r = vmci_fp_check_mf(cpu);
        if (r != 0)
            return r;
    }
    if (in->flags & VMCI_IF_MEM) {
        bool write = t->form.mem_acc == VMCI_MEM_WRITE;
        r = vmci_fp_wraps(in, vmci_ea(cpu, in), t->form.mem_bytes)
                ? vmci_fp_wrapped_probe(cpu, in, t->form.mem_bytes, write)
                : vmci_fp_operand(cpu, in, t->form.mem_bytes, 0, write, &la);
        if (r != 0)
            return r;
    }
    switch (t->form.special) {
    case VMCI_FS_FLDCW:
        return load_cw(cpu, t, la);
    case VMCI_FS_FNSTCW:
        return store_word(cpu, t, la);
    case VMCI_FS_FNSTSW:
        if (in->flags & VMCI_IF_MEM)
            return store_word(cpu, t, la);
        cpu->gpr[VMC_RAX] =
            (cpu->gpr[VMC_RAX] & ~0xffffull) | (vmci_fp_run(fp, fp->fnstsw, NULL, 0) & 0xffff);
        return 0;
    case VMCI_FS_FNCLEX:
        vmci_fp_run(fp, t->fn, NULL, 0);
        return 0;
    case VMCI_FS_FNINIT:
        vmci_fp_run(fp, t->fn, NULL, 0);
        fp->fip = fp->fdp = 0;
        fp->fcs = fp->fds = fp->fop = 0;
        fp->x87_check = false;
        return 0;
    case VMCI_FS_FLDENV:
    case VMCI_FS_FRSTOR:
        return load_env(cpu, in, t, la, t->form.special == VMCI_FS_FRSTOR);
    case VMCI_FS_FNSTENV:
    case VMCI_FS_FNSAVE:
        vmci_fp_park(cpu);
        return store_env(cpu, in, t, la, t->form.special == VMCI_FS_FNSAVE);
    default: /* FNENI, FNDISI, FNSETPM */
        return 0;
    }
}
