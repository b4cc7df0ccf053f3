/* SPDX-License-Identifier: BSD-2-Clause */
/* --dump-memory: the guest's memory as it is at the end, byte n of the file is address n. */
#include "run_vm.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define PIECE (1u << 16)

static int dump_slot(struct vmc_mem *mem, const struct vmc_mem_slot *slot, int fd)
{
    static unsigned char buf[PIECE];

    for (uint64_t at = 0; at < slot->bytes;) {
        size_t n = slot->bytes - at < PIECE ? (size_t)(slot->bytes - at) : PIECE;
        if (vmc_mem_read(mem, slot->gpa + at, buf, n) != VMC_OK)
            return -1;
        ssize_t done = pwrite(fd, buf, n, (off_t)(slot->gpa + at));
        if (done <= 0)
            return -1;
        at += (uint64_t)done;
    }
    return 0;
}

int run_dump_memory(struct run_vm *r, int fd)
{
    struct vmc_mem *mem = vmc_vm_mem(r->vm);
    struct vmc_mem_slot slot;

    for (unsigned i = 0; vmc_mem_slot_at(mem, i, &slot) == VMC_OK; i++) {
        if (slot.attr != VMC_MEM_RAM)
            continue;
        if (dump_slot(mem, &slot, fd) != 0) {
            fprintf(stderr, "vmcore run: --dump-memory %s: %s\n", r->opt.dump_path,
                    strerror(errno));
            return -1;
        }
    }
    return 0;
}
