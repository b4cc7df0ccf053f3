/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * diff_run: random user-mode code on two executors, results compared.
 *
 *   -t SECONDS     CPU time to spend (default 20)        -n CASES   or so many cases
 *   -s SEED        first seed (default: from the clock; printed)
 *   -m 16,32,64    modes                                 -a, -b NAME   executors (native, soft, bt)
 *   -f             walk the forms: every instruction form in turn instead of sequences
 *   -w             single instructions of random bytes; executor a says how long they are
 *   -r FILE        replay the vectors of FILE (-n: so often)
 *   -o DIR         keep failures there (default: diff_found, made when there is one)
 *   -x             keep going after a failure            -v         show what passes by
 *   -i PERCENT     share of integer instructions (default 50)
 *   -z             compare executor a with itself (is it deterministic?)
 */
#include "cpu/decode/insn.h"
#include "diff.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <vmcore/x86.h>

#define BATCH     256u
#define FAIL_SHOW 50u

struct run {
    struct diff_gen *gen;
    const struct diff_executor *ex[2];
    void *ctx[2];
    const char *keep;
    bool forms, raw, go_on, verbose, replay;
    unsigned modes[3], nmodes;
    unsigned long cases, failures, faults, hangs, disturbed;
    struct diff_case c[BATCH];
    struct diff_result r[2][BATCH];
};

/* SIGINT, SIGTERM: the batch is finished, and the totals are printed. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

static const struct diff_executor *const executors[] = {&diff_native, &diff_soft, &diff_bt};

static const struct diff_executor *executor(const char *name)
{
    for (unsigned i = 0; i < sizeof(executors) / sizeof(executors[0]); i++)
        if (strcmp(executors[i]->name, name) == 0)
            return executors[i];
    return NULL;
}

static bool differs(struct run *run, const struct diff_case *c)
{
    static struct diff_result r[2];
    for (unsigned k = 0; k < 2; k++)
        run->ex[k]->run(run->ctx[k], c, &r[k], 1);
    return !diff_same(run->gen, c, &r[0], &r[1], NULL, 0);
}

/* Drop what the failure does not need: instructions, then register contents. */
static void minimise(struct run *run, struct diff_case *c)
{
    struct diff_case t;
    for (unsigned i = c->insns; i-- > 0 && c->insns > 1;) {
        t = *c;
        diff_case_drop(&t, i);
        diff_case_finish(&t);
        if (differs(run, &t))
            *c = t;
    }
    for (unsigned i = 0; i < 16; i++) {
        t = *c;
        t.in.gpr[i] = 0;
        if (i != 4 && differs(run, &t))
            *c = t;
    }
    t = *c;
    t.in.fp.mxcsr = 0x1f80;
    t.in.fp.fcw = 0x37f;
    t.in.fp.fsw = 0;
    if (differs(run, &t))
        *c = t;
}

/* The case as a file that -r replays: as found, since what it takes to see it again is not known. */
static void keep(struct run *run, const struct diff_case *orig, const struct diff_case *small)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%016" PRIx64 ".vec", run->keep, orig->seed);
    (void)mkdir(run->keep, 0777);
    FILE *f = fopen(path, "w");
    if (f == NULL) {
        perror(path);
        return;
    }
    if (memcmp(small, orig, sizeof(*orig)) != 0) {
        fprintf(f, "# minimised:\n");
        diff_case_print(f, run->gen, small);
        fprintf(f, "# as it was found:\n");
    }
    diff_case_print(f, run->gen, orig);
    fclose(f);
    printf("again: diff_run -a %s -b %s -r %s\n\n", run->ex[0]->name, run->ex[1]->name, path);
    fflush(stdout);
}

static void failure(struct run *run, const struct diff_case *orig)
{
    static struct diff_result r[2];
    static char text[8192];
    struct diff_case c = *orig;
    run->failures++;
    if (run->failures > FAIL_SHOW)
        return;
    minimise(run, &c);
    for (unsigned k = 0; k < 2; k++)
        run->ex[k]->run(run->ctx[k], &c, &r[k], 1);
    text[0] = '\0';
    if (diff_same(run->gen, &c, &r[0], &r[1], text, sizeof(text))) {
        c = *orig;
        strcpy(text, "  (does not happen again by itself)\n");
    }
    printf("# %s / %s differ:\n", run->ex[0]->name, run->ex[1]->name);
    diff_case_print(stdout, run->gen, &c);
    printf("%s  ended by %u at %" PRIx64 " / %u at %" PRIx64 "\n", text, r[0].vector,
           r[0].out.rip, r[1].vector, r[1].out.rip);
    if (!run->replay)
        keep(run, orig, &c);
    fflush(stdout);
}

/*
 * The host may take the CPU away between two instructions, and gives it back with almost the state it
 * had: a processor of AMD that saves and restores the FPU without a pending exception drops the x87
 * pointers, and FNSTENV then stores zeros. So when results differ the host's part is repeated; what
 * the other executor did stands.
 */
static bool disturbed(struct run *run, unsigned i)
{
    static struct diff_result r[2];
    for (unsigned tries = 0; tries < 3; tries++) {
        for (unsigned k = 0; k < 2; k++) {
            if (run->ex[k] == &diff_native)
                run->ex[k]->run(run->ctx[k], &run->c[i], &r[k], 1);
            else
                r[k] = run->r[k][i];
        }
        if (diff_same(run->gen, &run->c[i], &r[0], &r[1], NULL, 0))
            return true;
    }
    return false;
}

static void compare_batch(struct run *run, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        run->cases++;
        run->faults += run->r[0][i].vector < 32;
        run->hangs += run->r[0][i].vector > DIFF_END;
        if (run->verbose)
            diff_case_print(stdout, run->gen, &run->c[i]);
        if (diff_same(run->gen, &run->c[i], &run->r[0][i], &run->r[1][i], NULL, 0))
            continue;
        if (disturbed(run, i))
            run->disturbed++;
        else
            failure(run, &run->c[i]);
    }
}

static void run_batch(struct run *run, unsigned n)
{
    for (unsigned k = 0; k < 2; k++)
        run->ex[k]->run(run->ctx[k], run->c, run->r[k], n);
    compare_batch(run, n);
}

/* Each instruction as long as executor a wants it, then run by executor b. */
static void run_raw_batch(struct run *run)
{
    static struct diff_case part[BATCH];
    static struct diff_result result[BATCH];
    unsigned which[BATCH], n = BATCH;
    for (unsigned i = 0; i < BATCH; i++)
        which[i] = i;
    for (unsigned bytes = 1; bytes <= DIFF_MAX_BYTES && n != 0; bytes++) {
        unsigned left = 0;
        for (unsigned i = 0; i < n; i++) {
            diff_raw_length(&run->c[which[i]], bytes);
            part[i] = run->c[which[i]];
        }
        run->ex[0]->run(run->ctx[0], part, result, n);
        for (unsigned i = 0; i < n; i++) {
            if (diff_raw_wants_more(&part[i], &result[i]))
                which[left++] = which[i];
            else if (result[i].vector ==
                     VMC_VEC_UD) /* how early it is known is nobody's business */
                diff_raw_length(&run->c[which[i]], DIFF_MAX_BYTES);
        }
        n = left;
    }
    run->ex[0]->run(run->ctx[0], run->c, run->r[0], BATCH);
    run->ex[1]->run(run->ctx[1], run->c, run->r[1], BATCH);
    compare_batch(run, BATCH);
}

static bool enough(const struct run *run, unsigned long max_cases, double seconds)
{
    if (interrupted || (run->failures != 0 && !run->go_on))
        return true;
    if (max_cases != 0)
        return run->cases >= max_cases;
    return (double)clock() / CLOCKS_PER_SEC >= seconds;
}

static void random_cases(struct run *run, uint64_t seed, unsigned long max_cases, double seconds)
{
    unsigned form = 0, round = 0;
    while (!enough(run, max_cases, seconds)) {
        for (unsigned i = 0; i < BATCH; i++, seed++) {
            unsigned bits = run->modes[round % run->nmodes];
            if (run->raw) {
                diff_gen_raw(run->gen, bits, seed, &run->c[i]);
            } else if (!run->forms) {
                diff_gen_case(run->gen, bits, seed, &run->c[i]);
            } else {
                diff_gen_form(run->gen, bits, form, seed, &run->c[i]);
                if (++form == diff_gen_forms(run->gen, bits)) {
                    form = 0;
                    round++;
                }
            }
            if (run->c[i].insns == 0)
                i--;
        }
        if (!run->forms)
            round++;
        if (run->raw)
            run_raw_batch(run);
        else
            run_batch(run, BATCH);
    }
}

static int replay(struct run *run, const char *file, unsigned long times)
{
    FILE *f = fopen(file, "r");
    bool bad;
    if (f == NULL) {
        perror(file);
        return 2;
    }
    while (diff_case_read(f, &run->c[0], &bad)) {
        if (bad) {
            printf("%s: not a vector\n", file);
            fclose(f);
            return 2;
        }
        if (!run->ex[0]->has_bits(run->ctx[0], run->c[0].bits))
            continue;
        for (unsigned i = 1; i < times && i < BATCH; i++)
            run->c[i] = run->c[0];
        for (unsigned long left = times; left != 0 && !interrupted;) {
            unsigned n = left < BATCH ? (unsigned)left : BATCH;
            run_batch(run, n);
            left -= n;
        }
    }
    fclose(f);
    return 0;
}

static void modes_of(struct run *run, const char *list)
{
    static const unsigned all[] = {64, 32, 16};
    for (unsigned i = 0; i < 3; i++) {
        char name[4];
        snprintf(name, sizeof(name), "%u", all[i]);
        if (strstr(list, name) == NULL)
            continue;
        if (!run->ex[0]->has_bits(run->ctx[0], all[i]) ||
            !run->ex[1]->has_bits(run->ctx[1], all[i]))
            printf("%u-bit code cannot run here\n", all[i]);
        else
            run->modes[run->nmodes++] = all[i];
    }
}

static uint64_t clock_seed(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return ((uint64_t)ts.tv_sec << 30) ^ (uint64_t)ts.tv_nsec;
}

int main(int argc, char **argv)
{
    static struct run run = {.keep = "diff_found"};
    const char *names[2] = {"native", "soft"}, *why, *modes = "64,32,16", *vectors[64];
    unsigned nvectors = 0, mix = 50;
    uint64_t seed = clock_seed();
    unsigned long max_cases = 0;
    double seconds = 20;
    bool self = false;
    int c, rc = 0;
    while ((c = getopt(argc, argv, "t:n:s:m:a:b:fr:o:xvzwi:")) != -1) {
        switch (c) {
        case 't': seconds = atof(optarg); break;
        case 'n': max_cases = strtoul(optarg, NULL, 0); break;
        case 's': seed = strtoull(optarg, NULL, 0); break;
        case 'm': modes = optarg; break;
        case 'a': names[0] = optarg; break;
        case 'b': names[1] = optarg; break;
        case 'i': mix = (unsigned)atoi(optarg); break;
        case 'f': run.forms = true; break;
        case 'w': run.raw = true; break;
        case 'r': if (nvectors < 64) vectors[nvectors++] = optarg; break;
        case 'o': run.keep = optarg; break;
        case 'x': run.go_on = true; break;
        case 'v': run.verbose = true; break;
        case 'z': self = true; break;
        default:
            return 2;
        }
    }
    while (optind < argc && nvectors != 0 && nvectors < 64)
        vectors[nvectors++] = argv[optind++];
    if (self)
        names[1] = names[0];
    for (unsigned k = 0; k < 2; k++) {
        run.ex[k] = executor(names[k]);
        if (run.ex[k] == NULL)
            return 2;
        run.ctx[k] = run.ex[k]->create(&why);
        if (run.ctx[k] == NULL) {
            printf("%s: %s\n", names[k], why);
            return 77;
        }
    }
    run.gen = diff_gen_create(diff_features());
    if (run.gen == NULL)
        return 2;
    diff_gen_mix(run.gen, mix);
    signal(SIGINT, on_interrupt);
    signal(SIGTERM, on_interrupt);
    if (nvectors != 0) {
        run.go_on = run.replay = true;
        for (unsigned i = 0; i < nvectors && rc == 0; i++)
            rc = replay(&run, vectors[i], max_cases != 0 ? max_cases : 1);
    } else {
        modes_of(&run, modes);
        if (run.nmodes == 0)
            return 77;
        printf("seed %" PRIu64 "\n", seed);
        fflush(stdout);
        random_cases(&run, seed, max_cases, seconds);
    }
    if (nvectors == 0) /* again: whoever keeps only the last line must not lose it */
        printf("seed %" PRIu64 ": ", seed);
    printf("%lu cases, %lu of them ended by an exception, %lu unfinished, %lu repeated; %lu differ\n",
           run.cases, run.faults, run.hangs, run.disturbed, run.failures);
    diff_gen_destroy(run.gen);
    for (unsigned k = 0; k < 2; k++)
        run.ex[k]->destroy(run.ctx[k]);
    return rc != 0 ? rc : run.failures != 0;
}
