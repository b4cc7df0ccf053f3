/* SPDX-License-Identifier: BSD-2-Clause */
/* "vmcore trace": run a guest and show translated code beside the guest's. */
#define _GNU_SOURCE
#include "run_vm.h"

#include "vmcore_cmd.h"

#include <capstone/capstone.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define GUEST_COLUMN 58 /* width of the guest's side */

struct tracer {
    FILE *out;
    csh guest[2], host;       /* guest: 32, 64 bits */
    uint64_t from, to;        /* addresses to show: both included */
    unsigned long left, seen; /* translations to show; 0: all */
    bool bounded, done;
};

static struct tracer tracer;

static void usage(FILE *to)
{
    fprintf(
        to,
        "Usage: vmcore trace [--at ADDR[-END]] [--count N] [--output FILE] RUN-OPTION...\n\n"
        "Run a guest with the software CPU, as 'vmcore run' with these options does, and list\n"
        "code as it is translated: the guest's on the left, the host's on the right.\n\n"
        "  --at ADDR[-END]  only translations that contain an instruction at these linear\n"
        "                   addresses\n"
        "  --count N        end the run after N of them; 0: never (default: 1 with --at, else 0)\n"
        "  --output FILE    instead of standard output\n\n"
        "The guest's serial port is not connected unless --serial says so. Exit status as of\n"
        "'vmcore run', 0 when N translations were listed.\n");
}

static int bad(const char *what, const char *arg)
{
    fprintf(stderr, "vmcore trace: %s%s\n", what, arg);
    return EXIT_BAD_ARGS;
}

/* ---- the listing ----------------------------------------------------------------------------- */

/* Text of the instruction at *code, which is moved behind it; "(bad)" for a byte that is none. */
static void disassemble(csh h, const uint8_t **code, size_t *left, uint64_t *la, char *text,
                        size_t size)
{
    cs_insn *in = cs_malloc(h);

    if (in != NULL && cs_disasm_iter(h, code, left, la, in)) {
        snprintf(text, size, "%s%s%s", in->mnemonic, in->op_str[0] != '\0' ? " " : "", in->op_str);
    } else {
        snprintf(text, size, "(bad)");
        (*code)++;
        (*left)--;
        (*la)++;
    }
    if (in != NULL)
        cs_free(in, 1);
}

static void guest_side(const struct vmc_translation *t, const struct vmc_code_piece *p, char *text,
                       size_t size)
{
    static const char *const names[] = {
        [VMC_CODE_ENTRY] = "entry", [VMC_CODE_LOOP_ENTRY] = "second copy of the loop"};
    char insn[192];

    if (p->guest == NULL) {
        snprintf(text, size, "%s", names[p->kind]);
        return;
    }
    const uint8_t *code = p->guest;
    size_t left = p->guest_bytes;
    uint64_t la = p->gva;
    disassemble(tracer.guest[t->bits == 64], &code, &left, &la, insn, sizeof(insn));
    snprintf(text, size, "%s%" PRIx64 "  %s", p->kind == VMC_CODE_COLD ? "cold " : "", p->gva,
             insn);
}

static void list_piece(const struct vmc_translation *t, uint32_t k)
{
    const struct vmc_code_piece *p = &t->piece[k];
    size_t end = k + 1 < t->pieces ? t->piece[k + 1].offset : t->bytes;
    const uint8_t *code = (const uint8_t *)t->host + p->offset;
    size_t left = end - p->offset;
    uint64_t la = (uintptr_t)code;
    char guest[256], host[192];

    if (p->kind == VMC_CODE_ENTRY && left == 0)
        return;
    guest_side(t, p, guest, sizeof(guest));
    if (left == 0)
        fprintf(tracer.out, "%s\n", guest);
    for (bool first = true; left > 0; first = false) {
        uint64_t at = la;
        disassemble(tracer.host, &code, &left, &la, host, sizeof(host));
        fprintf(tracer.out, "%-*s | %" PRIx64 "  %s\n", GUEST_COLUMN, first ? guest : "", at, host);
    }
}

static bool wanted(const struct vmc_translation *t)
{
    if (!tracer.bounded)
        return true;
    for (uint32_t k = 0; k < t->pieces; k++) {
        const struct vmc_code_piece *p = &t->piece[k];
        if (p->guest != NULL && p->gva <= tracer.to && p->gva + p->guest_bytes > tracer.from)
            return true;
    }
    return false;
}

/* On the vCPU's thread. */
static void translated(void *run, uint32_t vcpu, const struct vmc_translation *t)
{
    struct run_vm *r = run;

    if (!wanted(t))
        return;
    pthread_mutex_lock(&r->lock);
    bool show = !tracer.done;
    if (show) {
        fprintf(tracer.out, "translation of %" PRIx64 " on vCPU %u: %zu bytes at %" PRIxPTR "\n",
                t->gva, vcpu, t->bytes, (uintptr_t)t->host);
        for (uint32_t k = 0; k < t->pieces; k++)
            list_piece(t, k);
        fprintf(tracer.out, "\n");
        tracer.seen++;
        tracer.done = tracer.left != 0 && tracer.seen == tracer.left;
        r->quit_key = r->quit_key || tracer.done;
    }
    bool done = tracer.done;
    pthread_mutex_unlock(&r->lock);
    if (show && done)
        run_wake(r);
}

/* ---- the command ----------------------------------------------------------------------------- */

static bool parse_number(const char *s, int base, char **end, uint64_t *out)
{
    errno = 0;
    *out = strtoull(s, end, base);
    return errno == 0 && *end != s && *s != '-';
}

static int parse_at(const char *arg)
{
    char *end;

    if (!parse_number(arg, 16, &end, &tracer.from))
        return bad("--at: not a hexadecimal address: ", arg);
    tracer.to = tracer.from;
    if (*end == '-' && !parse_number(end + 1, 16, &end, &tracer.to))
        return bad("--at: not a hexadecimal address behind the '-': ", arg);
    if (*end != '\0' || tracer.to < tracer.from)
        return bad("--at: expected ADDR or ADDR-END, hexadecimal: ", arg);
    tracer.bounded = true;
    return 0;
}

static int open_listing(const char *path)
{
    tracer.out = path == NULL ? stdout : fopen(path, "we");
    if (tracer.out == NULL) {
        fprintf(stderr, "vmcore trace: --output %s: %s\n", path, strerror(errno));
        return EXIT_ERROR;
    }
    if (cs_open(CS_ARCH_X86, CS_MODE_32, &tracer.guest[0]) != CS_ERR_OK ||
        cs_open(CS_ARCH_X86, CS_MODE_64, &tracer.guest[1]) != CS_ERR_OK ||
        cs_open(CS_ARCH_X86, CS_MODE_64, &tracer.host) != CS_ERR_OK) {
        fprintf(stderr, "vmcore trace: libcapstone cannot be used\n");
        return EXIT_ERROR;
    }
    return 0;
}

/* The value of option --name at argv[*i]; NULL: it is another option. */
static const char *value(int argc, char **argv, int *i, const char *name)
{
    size_t n = strlen(name);

    if (strncmp(argv[*i], name, n) != 0)
        return NULL;
    if (argv[*i][n] == '=')
        return argv[*i] + n + 1;
    if (argv[*i][n] != '\0')
        return NULL;
    return *i + 1 < argc ? argv[++*i] : "";
}

/* Take our own options out of argv, which keeps room for those that are added. */
static int parse(int argc, char **argv, int *rest_n, char **rest)
{
    const char *output = NULL, *v;
    bool counted = false;
    int rc = 0;

    for (int i = 1; i < argc && rc == 0; i++) {
        char *end;
        uint64_t n;
        if ((v = value(argc, argv, &i, "--at")) != NULL) {
            rc = parse_at(v);
        } else if ((v = value(argc, argv, &i, "--count")) != NULL) {
            if (!parse_number(v, 10, &end, &n) || *end != '\0')
                rc = bad("--count: not a number: ", v);
            tracer.left = (unsigned long)n;
            counted = true;
        } else if ((v = value(argc, argv, &i, "--output")) != NULL) {
            output = v;
        } else {
            rest[(*rest_n)++] = argv[i];
        }
    }
    if (!counted)
        tracer.left = tracer.bounded;
    return rc != 0 ? rc : open_listing(output);
}

int cmd_trace(int argc, char **argv)
{
    static char run[] = "run", engine[] = "--engine=soft", serial[] = "--serial=none";

    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        usage(stdout);
        return EXIT_OK;
    }
    char **rest = calloc((size_t)argc + 3, sizeof(*rest));
    if (rest == NULL)
        return EXIT_ERROR;
    int n = 0;
    rest[n++] = run;
    rest[n++] = engine;
    rest[n++] = serial;
    snprintf(run_who, sizeof(run_who), "vmcore trace");
    int rc = parse(argc, argv, &n, rest);
    if (rc == 0)
        rc = run_with(n, rest, translated);
    free(rest);
    if (tracer.out != NULL && fflush(tracer.out) != 0) {
        fprintf(stderr, "vmcore trace: cannot write the listing: %s\n", strerror(errno));
        rc = EXIT_ERROR;
    }
    if (tracer.bounded && tracer.seen == 0 && rc == EXIT_OK) {
        fprintf(stderr, "vmcore trace: nothing there was translated\n");
        rc = EXIT_ERROR;
    }
    return rc;
}
