/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pages of a space at addresses that the kernel can run a guest on: the page provider of a KVM
 * process. Mechanism only; what is where is the space's affair.
 *
 * A window is a range of addresses as large as a memory slot. Frames of the pool lie in one memfd;
 * a page whose frame is known is a mapping of that file at the frame's offset. userfaultfd reports
 * every touch of a page without a page-table entry, and every write to one that is write-protected;
 * a thread asks the space for the page and fills the entry in (UFFDIO_CONTINUE). Taking pages back
 * drops entries and leaves mappings alone, so that what comes back unchanged costs one request.
 *
 * The kernel limits the number of mappings (vm.max_map_count); a window counts its own, and undoes
 * some when it comes near its share, as a TLB evicts.
 *
 * While a page gets another frame it cannot be accessed at all for some microseconds. KVM_RUN says
 * EFAULT to a vCPU that tries; the engine runs it again.
 */
#ifndef KVM_WINDOW_H
#define KVM_WINDOW_H

#include <vmcore/kvm.h>
#include <vmcore/pages.h>

struct kvm_window;

struct kvm_window_config {
    struct vmc_kvm_frames *frames; /* borrowed */
    uint64_t pages;
    uint64_t max_mappings; /* 0: half of what the kernel allows a process */
    uint32_t around;       /* pages to bring in with one that is touched, a power of two; 0: 16 */
};

struct kvm_window_stats {
    uint64_t faults;    /* pages that were asked for */
    uint64_t remaps;    /* of these, those whose frame had changed */
    uint64_t mappings;  /* now */
    uint64_t evictions; /* blocks that lost their mappings to the limit */
};

/* Reserve addresses. VMC_ENOTSUP: the kernel lacks what this needs, or does not let us. */
int kvm_window_create(const struct kvm_window_config *cfg, struct kvm_window **out,
                      struct vmc_error *err);
/* The pages are those of the space from first on. Touches are answered from now on. */
int kvm_window_bind(struct kvm_window *w, struct vmc_space *space, uint64_t first,
                    struct vmc_error *err);
void kvm_window_destroy(struct kvm_window *w);
void *kvm_window_base(const struct kvm_window *w);
void kvm_window_get_stats(struct kvm_window *w, struct kvm_window_stats *out);
/* Nobody holds pages [first, first + count) of the window when this returns. Any thread. */
void kvm_window_revoke(struct kvm_window *w, uint64_t first, uint64_t count);

/* ---- frames (kvm_frames.c) ----------------------------------------------------------------- */

int kvm_frames_fd(const struct vmc_kvm_frames *f);
unsigned char *kvm_frames_base(const struct vmc_kvm_frames *f);

#endif
