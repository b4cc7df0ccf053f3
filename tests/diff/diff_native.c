/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host CPU as an executor: a child process with the test's pages at their addresses. Cases come
 * in batches through shared memory. The child is expendable: if a case kills it, that case is
 * DIFF_DEAD and a new child goes on.
 */
#define _GNU_SOURCE
#include "diff.h"

#include <asm/ldt.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define BATCH 256u

struct shared {
    volatile unsigned next; /* the case that runs, for the post mortem */
    struct diff_case c[BATCH];
    struct diff_result r[BATCH];
};

struct native {
    struct shared *sh;
    pid_t pid;
    int to, from; /* pipes: number of cases, answer */
    bool ldt;
};

/* ---- entry and exit of the code under test (child) ------------------------------------------- */

/*
 * Fixed variables of the entry and exit code. The exit code is copied to DIFF_EXIT, below 4 GiB,
 * and finds them there.
 */
struct frame {
    uint64_t gpr[16];
    uint64_t rflags;
    uint64_t host_rsp, host_rip;
    uint64_t target_off; /* m16:32 pointer for the far jump into 16/32-bit code */
    uint16_t target_cs, pad[3];
    uint64_t rip64;
    uint32_t data_sel, stack_sel, es_sel; /* of 16- and 32-bit code */
};
#define FRAME_AT (DIFF_EXIT + DIFF_PAGE)
#define FRAME    ((struct frame *)(uintptr_t)FRAME_AT)
_Static_assert(offsetof(struct frame, rflags) == 128 && offsetof(struct frame, host_rsp) == 136 &&
                   offsetof(struct frame, target_off) == 152 && offsetof(struct frame, rip64) == 168 &&
                   offsetof(struct frame, data_sel) == 176 && offsetof(struct frame, es_sel) == 184,
               "the assembly knows these");

void diff_enter(void);
extern const uint8_t diff_exit_code[], diff_exit_end[];

#define S(x) S2(x)
#define S2(x) #x
#define V(off) "(0x3a571000 + " S(off) ")"

__asm__(".text\n"
        ".globl diff_enter\n"
        ".type diff_enter, @function\n"
        "diff_enter:\n"
        "  push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "  mov %rsp, " V(136) "\n"
        "  lea 1f(%rip), %rax\n"
        "  mov %rax, " V(144) "\n"
        "  pushq " V(128) "\n"
        "  popfq\n"
        "  mov " V(0) ", %rax\n mov " V(8) ", %rcx\n mov " V(16) ", %rdx\n"
        "  mov " V(24) ", %rbx\n mov " V(40) ", %rbp\n mov " V(48) ", %rsi\n"
        "  mov " V(56) ", %rdi\n mov " V(64) ", %r8\n mov " V(72) ", %r9\n"
        "  mov " V(80) ", %r10\n mov " V(88) ", %r11\n mov " V(96) ", %r12\n"
        "  mov " V(104) ", %r13\n mov " V(112) ", %r14\n mov " V(120) ", %r15\n"
        "  mov " V(32) ", %rsp\n"
        "  jmp *" V(168) "\n"
        /* 16- and 32-bit code: segments first (not popfq's flags: MOV leaves them alone) */
        ".globl diff_enter_far\n"
        "diff_enter_far:\n"
        "  mov " V(176) ", %ds\n mov " V(184) ", %es\n"
        "  mov " V(32) ", %rsp\n"
        "  mov " V(180) ", %ss\n"
        "  ljmpl *" V(152) "\n"
        "1:\n"
        "  pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
        "  ret\n"
        ".size diff_enter, .-diff_enter\n"
        /* at DIFF_EXIT: every register to the frame, back to the host's stack */
        ".globl diff_exit_code, diff_exit_end\n"
        "diff_exit_code:\n"
        "  mov %rax, " V(0) "\n mov %rcx, " V(8) "\n mov %rdx, " V(16) "\n"
        "  mov %rbx, " V(24) "\n mov %rsp, " V(32) "\n mov %rbp, " V(40) "\n"
        "  mov %rsi, " V(48) "\n mov %rdi, " V(56) "\n mov %r8, " V(64) "\n"
        "  mov %r9, " V(72) "\n mov %r10, " V(80) "\n mov %r11, " V(88) "\n"
        "  mov %r12, " V(96) "\n mov %r13, " V(104) "\n mov %r14, " V(112) "\n"
        "  mov %r15, " V(120) "\n"
        "  mov " V(136) ", %rsp\n"
        "  pushfq\n"
        "  popq " V(128) "\n"
        "  cld\n"
        "  pushq $2\n popfq\n"
        "  xor %eax, %eax\n mov %ax, %ds\n mov %ax, %es\n"
        "  mov $0x2b, %eax\n mov %ax, %ss\n"
        "  jmp *" V(144) "\n"
        "diff_exit_end:\n");
extern const uint8_t diff_enter_far[];

/* ---- state of the child ---------------------------------------------------------------------- */

static struct shared *sh;
static uint8_t *code_rw; /* the code pages, writable, at another address */
static uint64_t host_fs, host_gs;
static volatile uint32_t fault_vector, fault_code;
static volatile uint64_t fault_cr2;
static struct diff_result *current;
static _Alignas(64) uint8_t xsave_area[4096];

static inline uint64_t rdfs(void)
{
    uint64_t v;
    __asm__ volatile("rdfsbase %0" : "=r"(v));
    return v;
}
static inline uint64_t rdgs(void)
{
    uint64_t v;
    __asm__ volatile("rdgsbase %0" : "=r"(v));
    return v;
}
static inline void wrfs(uint64_t v)
{
    __asm__ volatile("wrfsbase %0" : : "r"(v) : "memory");
}
static inline void wrgs(uint64_t v)
{
    __asm__ volatile("wrgsbase %0" : : "r"(v) : "memory");
}

/* The kernel leaves AC as it was. */
__attribute__((always_inline)) static inline void clear_ac(void)
{
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andq $~0x40000, (%%rsp); popfq;"
                     "lea 128(%%rsp), %%rsp"
                     :
                     :
                     : "memory", "cc");
}

/* No libc before the thread pointer is back, and none that needs vector registers either. */
__attribute__((no_stack_protector, no_sanitize("address", "undefined", "thread"))) static void
on_signal(int sig, siginfo_t *si, void *ctx)
{
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};
    ucontext_t *uc = ctx;
    greg_t *g = uc->uc_mcontext.gregs;
    wrfs(host_fs);
    wrgs(host_gs);
    clear_ac();
    if (current == NULL)
        _exit(3);
    (void)si;
    if (sig == SIGALRM)
        alarm(60);
    fault_vector = sig == SIGALRM ? DIFF_STOPPED : (uint32_t)g[REG_TRAPNO];
    fault_code = (uint32_t)g[REG_ERR];
    fault_cr2 = (uint64_t)g[REG_CR2];
    for (int i = 0; i < 16; i++)
        FRAME->gpr[i] = (uint64_t)g[order[i]];
    FRAME->rflags = (uint64_t)g[REG_EFL];
    current->out.rip = (uint64_t)g[REG_RIP];
    const uint8_t *fp = (const uint8_t *)uc->uc_mcontext.fpregs;
    uint8_t *dst = (uint8_t *)&current->out.fp;
    for (unsigned i = 0; i < sizeof(struct diff_fp); i++)
        dst[i] = fp[i];
    /* On as if the code had ended. */
    g[REG_RSP] = (greg_t)FRAME->host_rsp;
    g[REG_RIP] = (greg_t)FRAME->host_rip;
    g[REG_EFL] = 0x202;
    g[REG_CSGSFS] = (greg_t)(DIFF_CS64 | (uint64_t)DIFF_DS << 48);
}

static void fp_load(const struct diff_fp *fp)
{
    __asm__ volatile("xrstor64 (%0)" : : "r"(fp), "a"(7), "d"(0) : "memory");
}
static uint8_t *const page_of[2] = {(uint8_t *)(uintptr_t)DIFF_DATA,
                                    (uint8_t *)(uintptr_t)DIFF_STACK};

static void set_up_code(const struct diff_case *c)
{
    diff_case_code_pages(c, code_rw);
}

/* The C part around diff_enter: no FP state of ours may matter in between. */
static void run_one(const struct diff_case *c, struct diff_result *r)
{
    uint8_t init[DIFF_MEM_BYTES];
    struct frame *f = FRAME;
    diff_case_memory(c, init);
    memcpy(page_of[0], init, DIFF_DATA_RW * DIFF_PAGE);
    memcpy(page_of[1], init + 3 * DIFF_PAGE, DIFF_PAGE);
    set_up_code(c);
    memcpy(f->gpr, c->in.gpr, sizeof(f->gpr));
    f->rflags = c->in.rflags;
    f->target_off = (uint32_t)c->in.rip;
    f->target_cs = c->bits == 32 ? DIFF_CS32 : DIFF_LDT_CODE16;
    memcpy((uint8_t *)&f->target_off + 4, &f->target_cs, 2);
    f->data_sel = c->ds != 0 ? diff_seg_sel(c->ds) : c->bits == 32 ? DIFF_DS : DIFF_LDT_DATA16;
    f->es_sel = c->es != 0 ? diff_seg_sel(c->es) : c->bits == 32 ? DIFF_DS : DIFF_LDT_DATA16;
    f->stack_sel = c->bits == 32 ? DIFF_DS : DIFF_LDT_STACK16;
    f->rip64 = c->bits == 64 ? c->in.rip : (uintptr_t)diff_enter_far;
    fault_vector = DIFF_END;
    current = r;
    if (c->bits == 64) {
        wrfs(DIFF_FS_BASE);
        wrgs(DIFF_GS_BASE);
    }
    fp_load(&c->in.fp);
    diff_enter();
    __asm__ volatile("" : : : "memory");
    if (fault_vector == DIFF_END)
        __asm__ volatile("xsave64 (%0)" : : "r"(xsave_area), "a"(7), "d"(0) : "memory");
    __asm__ volatile("fninit; ldmxcsr %0" : : "m"((uint32_t){0x1f80}));
    wrfs(host_fs);
    wrgs(host_gs);
    current = NULL;
    if (fault_vector == DIFF_END) {
        memcpy(&r->out.fp, xsave_area, sizeof(r->out.fp));
        r->out.rip = DIFF_EXIT;
    }
    memcpy(r->out.gpr, f->gpr, sizeof(f->gpr));
    r->out.rflags = f->rflags;
    r->vector = fault_vector;
    r->code = fault_vector < 32 ? fault_code : 0;
    r->cr2 = fault_vector == 14 ? fault_cr2 : 0;
    memcpy(r->mem, page_of[0], 3 * DIFF_PAGE);
    memcpy(r->mem + 3 * DIFF_PAGE, page_of[1], DIFF_PAGE);
}

/* ---- the child's set-up and loop ------------------------------------------------------------- */

static void map_at(uint32_t at, unsigned pages, int prot)
{
    void *want = (void *)(uintptr_t)at;
    void *p = mmap(want, (size_t)pages * DIFF_PAGE, prot,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);
    if (p != want)
        _exit(4);
}

static void map_code(void)
{
    size_t bytes = DIFF_CODE_PAGES * DIFF_PAGE;
    void *want = (void *)(uintptr_t)DIFF_CODE;
    int fd = memfd_create("code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        _exit(4);
    code_rw = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (code_rw == MAP_FAILED ||
        mmap(want, bytes, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE,
             fd, 0) != want)
        _exit(4);
}

/* The read-only page is the same for all cases. */
static void fill_read_only(void)
{
    static const struct diff_case any;
    uint8_t mem[DIFF_MEM_BYTES];
    uint8_t *p = page_of[0] + DIFF_DATA_RW * DIFF_PAGE;
    diff_case_memory(&any, mem);
    memcpy(p, mem + DIFF_DATA_RW * DIFF_PAGE, DIFF_PAGE);
    mprotect(p, DIFF_PAGE, PROT_READ);
}

static bool set_ldt(unsigned entry, uint32_t base, uint32_t limit, unsigned attr)
{
    struct user_desc d = {.entry_number = entry, .base_addr = base, .limit = limit,
                          .contents = attr >> 2 & 3, .read_exec_only = !(attr & 2),
                          .seg_32bit = attr >> 14 & 1, .limit_in_pages = attr >> 15 & 1,
                          .useable = 1};
    return syscall(SYS_modify_ldt, 1, &d, sizeof(d)) == 0;
}

static bool make_ldt(void)
{
    bool ok = set_ldt(0, DIFF_CODE, 0xffff, 0xfb) && set_ldt(1, DIFF_DATA, 0xffff, 0xf3) &&
              set_ldt(2, DIFF_STACK, DIFF_PAGE - 1, 0xf3);
    for (unsigned i = 0; i < DIFF_SEGS && ok; i++)
        ok = set_ldt(DIFF_LDT_SEGS + i, diff_segs[i].base, diff_segs[i].limit, diff_segs[i].attr);
    return ok;
}

static void child_main(int in, int out)
{
    static uint8_t alt[65536];
    static const int sigs[] = {SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGBUS, SIGALRM};
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    unsigned n;
    signal(SIGINT, SIG_IGN); /* the parent's, which sees the batch through */
    signal(SIGTERM, SIG_IGN);
    map_code();
    map_at(DIFF_DATA, 3, PROT_READ | PROT_WRITE);
    map_at(DIFF_STACK, 1, PROT_READ | PROT_WRITE);
    map_at(DIFF_EXIT, 1, PROT_READ | PROT_WRITE | PROT_EXEC);
    map_at(FRAME_AT, 1, PROT_READ | PROT_WRITE);
    memcpy((void *)(uintptr_t)DIFF_EXIT, diff_exit_code, (size_t)(diff_exit_end - diff_exit_code));
    if (mprotect((void *)(uintptr_t)DIFF_EXIT, DIFF_PAGE, PROT_READ | PROT_EXEC) != 0)
        _exit(4); /* cases must not change it */
    (void)make_ldt(); /* 16-bit cases are not asked for when there is no LDT */
    fill_read_only();
    sigaltstack(&ss, NULL);
    sigfillset(&sa.sa_mask);
    for (unsigned i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
        sigaction(sigs[i], &sa, NULL);
    host_fs = rdfs();
    host_gs = rdgs();
    while (read(in, &n, sizeof(n)) == (ssize_t)sizeof(n)) {
        alarm(60); /* a batch takes milliseconds: only a hang gets there */
        for (unsigned i = sh->next; i < n; i++) {
            sh->next = i;
            run_one(&sh->c[i], &sh->r[i]);
        }
        sh->next = n;
        alarm(0);
        if (write(out, &n, sizeof(n)) != (ssize_t)sizeof(n))
            break;
    }
    _exit(0);
}

/* ---- the parent ------------------------------------------------------------------------------ */

static bool spawn(struct native *nv)
{
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0)
        return false;
    nv->pid = fork();
    if (nv->pid < 0)
        return false;
    if (nv->pid == 0) {
        close(to[1]);
        close(from[0]);
        sh = nv->sh;
        child_main(to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    nv->to = to[1];
    nv->from = from[0];
    return true;
}

static void reap(struct native *nv)
{
    int st;
    close(nv->to);
    close(nv->from);
    kill(nv->pid, SIGKILL);
    waitpid(nv->pid, &st, 0);
}

#if defined(__SANITIZE_ADDRESS__)
#define SHADOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SHADOW 1
#endif
#endif

static void *native_create(const char **why)
{
#ifdef SHADOW
    *why = "AddressSanitizer's shadow is mapped where the code under test must find nothing";
    return NULL;
#endif
    struct native *nv = calloc(1, sizeof(*nv));
    void *m = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *why = "no memory";
    if (nv == NULL || m == MAP_FAILED)
        return NULL;
    nv->sh = m;
    signal(SIGPIPE, SIG_IGN);
    struct user_desc probe = {.entry_number = 3, .useable = 1, .limit = 1};
    nv->ldt = syscall(SYS_modify_ldt, 1, &probe, sizeof(probe)) == 0;
    *why = "cannot fork";
    return spawn(nv) ? nv : NULL;
}

static void native_destroy(void *ctx)
{
    struct native *nv = ctx;
    reap(nv);
    munmap(nv->sh, sizeof(struct shared));
    free(nv);
}

static bool native_has_bits(void *ctx, unsigned bits)
{
    struct native *nv = ctx;
    uint32_t limit;
    uint8_t ok;
    if (bits == 64)
        return true;
    if (bits == 16)
        return nv->ldt;
    __asm__("lsl %2, %0; setz %1" : "=r"(limit), "=q"(ok) : "r"(DIFF_CS32) : "cc");
    return ok;
}

static void run_batch(struct native *nv, unsigned n)
{
    nv->sh->next = 0;
    while (nv->sh->next < n) {
        unsigned got;
        if (write(nv->to, &n, sizeof(n)) == (ssize_t)sizeof(n) &&
            read(nv->from, &got, sizeof(got)) == (ssize_t)sizeof(got))
            return;
        /* The child is gone: so is the case it ran. */
        nv->sh->r[nv->sh->next].vector = DIFF_DEAD;
        nv->sh->next++;
        reap(nv);
        if (!spawn(nv))
            abort();
    }
}

static void native_run(void *ctx, const struct diff_case *c, struct diff_result *r, unsigned n)
{
    struct native *nv = ctx;
    for (unsigned at = 0; at < n; at += BATCH) {
        unsigned k = n - at < BATCH ? n - at : BATCH;
        memcpy(nv->sh->c, c + at, k * sizeof(*c));
        run_batch(nv, k);
        memcpy(r + at, nv->sh->r, k * sizeof(*r));
    }
}

const struct diff_executor diff_native = {
    .name = "native",
    .create = native_create,
    .destroy = native_destroy,
    .has_bits = native_has_bits,
    .run = native_run,
};
