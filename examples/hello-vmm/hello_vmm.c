/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The smallest useful VMM: sixteen bytes of guest code print a line through a port that this
 * program, not the library, stands behind. Two VMs run side by side, each with an engine of its
 * own where the host offers more than one.
 */
#include <pthread.h>
#include <stdio.h>

#include <vmcore/host.h>
#include <vmcore/vmcore.h>
#ifdef HELLO_KVM
#include <vmcore/kvm.h>
#endif

#define MEM_BYTES (1u << 20)
#define CODE_GPA  0x1000u
#define OUT_PORT  0x10u

/* mov si, text; next: lodsb; test al, al; jz done; out 0x10, al; jmp next; done: hlt */
static const unsigned char code[] = {0xbe, 0x0d, 0x10, 0xac, 0x84, 0xc0, 0x74, 0x04,
                                     0xe6, 0x10, 0xeb, 0xf7, 0xf4};

static int fail(const char *what, const struct vmc_error *err)
{
    fprintf(stderr, "hello-vmm: %s: %s\n", what, err->text);
    return -1;
}

/* Run until HLT; what the guest writes to OUT_PORT is printed, in one piece: the other runs too. */
static int run_guest(struct vmc_vcpu *v)
{
    struct vmc_run_limits lim = {.size = sizeof(lim)};
    struct vmc_exit x;
    char line[80];
    size_t n = 0;
    int rc;

    while ((rc = vmc_vcpu_run(v, &lim, &x)) == VMC_OK) {
        switch (x.kind) {
        case VMC_EXIT_IO:
            if (x.u.io.write && x.u.io.port == OUT_PORT && n < sizeof(line))
                line[n++] = (char)x.u.io.data;
            x.answer = VMC_ANSWER_DONE;
            rc = vmc_vcpu_complete(v, &x);
            if (rc != VMC_OK)
                return rc;
            break;
        case VMC_EXIT_IDLE:
            fwrite(line, 1, n, stdout);
            return VMC_OK;
        default:
            fprintf(stderr, "hello-vmm: unexpected %s exit\n", vmc_exit_name(x.kind));
            return VMC_ENOTSUP;
        }
    }
    return rc;
}

static int start_state(struct vmc_vcpu *v)
{
    struct vmc_x86_state st;
    int rc = vmc_vcpu_get_state(v, VMC_ST_RIP | VMC_ST_SEG, &st);

    if (rc < 0)
        return rc;
    st.rip = CODE_GPA;
    st.seg[VMC_CS].selector = 0;
    st.seg[VMC_CS].base = 0;
    return vmc_vcpu_set_state(v, VMC_ST_RIP | VMC_ST_SEG, &st);
}

static int hello(const struct vmc_platform *pf, const struct vmc_engine_ops *engine)
{
    struct vmc_error err = {0};
    struct vmc_vm *vm = NULL;
    struct vmc_vcpu *v;
    char text[64];
    struct vmc_vm_config cfg = {.size = sizeof(cfg), .max_vcpus = 1, .platform = pf,
                                .engine = engine,
                                .flags = VMC_VM_NO_IRQCHIP | VMC_VM_PIO_EXITS};
    struct vmc_mem_slot ram = {.size = sizeof(ram), .attr = VMC_MEM_RAM, .bytes = MEM_BYTES};

    if (vmc_vm_create(&cfg, &vm, &err) != VMC_OK)
        return fail("vm", &err);
    int n = snprintf(text, sizeof(text), "Hello from a guest on the %s engine\n", engine->name);
    int rc = vmc_mem_add(vmc_vm_mem(vm), &ram, &err);
    if (rc == VMC_OK)
        rc = vmc_mem_write(vmc_vm_mem(vm), CODE_GPA, code, sizeof(code));
    if (rc == VMC_OK)
        rc = vmc_mem_write(vmc_vm_mem(vm), CODE_GPA + sizeof(code), text, (size_t)n + 1);
    if (rc == VMC_OK)
        rc = vmc_vcpu_create(vm, 0, &v, &err);
    if (rc == VMC_OK)
        rc = vmc_vm_start(vm, &err);
    if (rc == VMC_OK)
        rc = start_state(v);
    if (rc == VMC_OK)
        rc = run_guest(v);
    vmc_vm_destroy(vm);
    return rc == VMC_OK ? 0 : fail("run", &err);
}

struct job {
    const struct vmc_platform *pf;
    const struct vmc_engine_ops *engine;
    int rc;
};

static void *thread_main(void *arg)
{
    struct job *j = arg;
    j->rc = hello(j->pf, j->engine);
    return NULL;
}

int main(void)
{
    struct vmc_platform pf;
    struct vmc_error err = {0};

    if (vmc_host_platform_init(&pf, NULL, &err) != VMC_OK)
        return fail("platform", &err) != 0;
    struct job second = {.pf = &pf, .engine = vmc_engine_soft()};
#ifdef HELLO_KVM
    struct vmc_engine_info info = {.size = sizeof(info)};
    if (vmc_engine_kvm()->probe(&pf, &info, &err) == VMC_OK)
        second.engine = vmc_engine_kvm();
    else
        printf("(no KVM here: %s)\n", err.text);
#endif
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_main, &second) != 0)
        return 1;
    int rc = hello(&pf, vmc_engine_soft());
    pthread_join(thread, NULL);
    return rc != 0 || second.rc != 0;
}
