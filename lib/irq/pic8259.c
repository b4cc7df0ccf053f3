/* SPDX-License-Identifier: BSD-2-Clause */
/* The 8259A pair of the PC (Intel 231468-003), with the ELCR of later chip sets. */
#include "irq/irq_int.h"

#define CASCADE     2u
#define ELCR_MASTER 0xf8u /* inputs 0, 1, 2 are always edge-triggered */
#define ELCR_SLAVE  0xdeu /* inputs 8, 13 too */

#define ICW1_ICW4 0x01
#define ICW1_SNGL 0x02
#define ICW1_LTIM 0x08
#define ICW1      0x10
#define ICW4_AEOI 0x02
#define ICW4_SFNM 0x10
#define OCW3      0x08
#define OCW3_RIS  0x01
#define OCW3_RR   0x02
#define OCW3_POLL 0x04
#define OCW3_SMM  0x20
#define OCW3_ESMM 0x40

static bool is_master(const struct vmci_pic *p, const struct vmci_pic_unit *u)
{
    return u == &p->unit[0];
}

static uint8_t level_inputs(const struct vmci_pic_unit *u)
{
    return u->ltim ? 0xff : u->elcr;
}

/* Rank of the highest-priority bit of mask, 0 (highest) to 7; 8 when empty. */
static unsigned top_rank(const struct vmci_pic_unit *u, uint8_t mask)
{
    unsigned rank = 0;

    while (rank < 8 && (mask & (1u << ((u->lowest + 1u + rank) & 7))) == 0)
        rank++;
    return rank;
}

static unsigned rank_to_input(const struct vmci_pic_unit *u, unsigned rank)
{
    return (u->lowest + 1u + rank) & 7;
}

/* Input that the unit would present to an acknowledge, or -1. */
static int requested(const struct vmci_pic *p, const struct vmci_pic_unit *u)
{
    unsigned rank = top_rank(u, u->irr & (uint8_t)~u->imr);
    uint8_t in_service = u->isr;

    if (rank == 8)
        return -1;
    if (u->special_mask)
        in_service &= (uint8_t)~u->imr;
    /* Fully nested: the slave may interrupt again while one of its requests is in service. */
    if (u->special_nested && is_master(p, u))
        in_service &= (uint8_t)~(1u << CASCADE);
    return rank < top_rank(u, in_service) ? (int)rank_to_input(u, rank) : -1;
}

/* Recompute the cascade and the output; true when the output is up. */
static bool update(struct vmci_pic *p)
{
    struct vmci_pic_unit *master = &p->unit[0];

    if (requested(p, &p->unit[1]) >= 0)
        master->irr |= 1u << CASCADE;
    else
        master->irr &= (uint8_t)~(1u << CASCADE);
    bool up = requested(p, master) >= 0;
    vmci_store_release(&p->intr, up);
    return up;
}

static void set_input(struct vmci_pic_unit *u, unsigned input, bool level)
{
    uint8_t bit = (uint8_t)(1u << input);

    if (level_inputs(u) & bit)
        u->irr = level ? u->irr | bit : u->irr & (uint8_t)~bit;
    else if (level && !(u->lines & bit))
        u->irr |= bit;
    u->lines = level ? u->lines | bit : u->lines & (uint8_t)~bit;
}

bool vmci_pic_set(struct vmci_pic *p, unsigned pin, bool level)
{
    if (pin != CASCADE && pin < 16)
        set_input(&p->unit[pin / 8], pin % 8, level);
    return update(p);
}

static void acknowledge(struct vmci_pic_unit *u, unsigned input)
{
    uint8_t bit = (uint8_t)(1u << input);

    if (!u->auto_eoi)
        u->isr |= bit;
    else if (u->rotate_aeoi)
        u->lowest = (uint8_t)input;
    if (!(level_inputs(u) & bit))
        u->irr &= (uint8_t)~bit;
}

int vmci_pic_ack(struct vmci_pic *p)
{
    int input = requested(p, &p->unit[0]);
    int vector;

    if (input < 0)
        return -1;
    acknowledge(&p->unit[0], (unsigned)input);
    vector = p->unit[0].base + input;
    if (input == CASCADE && !p->unit[0].single) {
        int second = requested(p, &p->unit[1]);
        if (second >= 0)
            acknowledge(&p->unit[1], (unsigned)second);
        /* A request that vanished is answered as input 7, without setting ISR. */
        vector = p->unit[1].base + (second >= 0 ? second : 7);
    }
    (void)update(p); /* the caller looks at intr */
    return vector;
}

static void end_of_interrupt(struct vmci_pic_unit *u, unsigned input, bool rotate)
{
    u->isr &= (uint8_t)~(1u << input);
    if (rotate)
        u->lowest = (uint8_t)input;
}

static void write_ocw2(struct vmci_pic_unit *u, uint8_t v)
{
    unsigned input = v & 7;
    bool rotate = (v & 0x80) != 0;

    switch (v >> 5) {
    case 0: /* rotate in automatic EOI mode: clear, set */
    case 4:
        u->rotate_aeoi = rotate;
        break;
    case 1: /* non-specific EOI, without and with rotation */
    case 5: {
        uint8_t mask = u->special_mask ? u->isr & (uint8_t)~u->imr : u->isr;
        unsigned rank = top_rank(u, mask);
        if (rank < 8)
            end_of_interrupt(u, rank_to_input(u, rank), rotate);
        break;
    }
    case 3: /* specific EOI, without and with rotation */
    case 7:
        end_of_interrupt(u, input, rotate);
        break;
    case 6: /* set priority */
        u->lowest = (uint8_t)input;
        break;
    default: /* 2: no operation */
        break;
    }
}

static void write_ocw3(struct vmci_pic_unit *u, uint8_t v)
{
    if (v & OCW3_POLL)
        u->poll = true;
    if (v & OCW3_RR)
        u->read_isr = (v & OCW3_RIS) != 0;
    if (v & OCW3_ESMM)
        u->special_mask = (v & OCW3_SMM) != 0;
}

static void write_icw1(struct vmci_pic_unit *u, uint8_t v)
{
    /* Edge sensing restarts: an input that is up needs a new edge. Level inputs keep requesting. */
    *u = (struct vmci_pic_unit){
        .lines = u->lines,
        .elcr = u->elcr,
        .lowest = 7,
        .init_step = 2,
        .need_icw4 = (v & ICW1_ICW4) != 0,
        .single = (v & ICW1_SNGL) != 0,
        .ltim = (v & ICW1_LTIM) != 0,
    };
    u->irr = u->lines & level_inputs(u);
}

static void write_icw(struct vmci_pic_unit *u, uint8_t v)
{
    switch (u->init_step) {
    case 2:
        u->base = v & 0xf8;
        u->init_step = !u->single ? 3 : u->need_icw4 ? 4 : 0;
        break;
    case 3: /* the cascade is wired: nothing to store */
        u->init_step = u->need_icw4 ? 4 : 0;
        break;
    default:
        u->special_nested = (v & ICW4_SFNM) != 0;
        u->auto_eoi = (v & ICW4_AEOI) != 0;
        u->init_step = 0;
        break;
    }
}

void vmci_pic_write(struct vmci_pic *p, unsigned unit, unsigned reg, uint8_t v)
{
    struct vmci_pic_unit *u = &p->unit[unit & 1];

    if (reg == 0) {
        if (v & ICW1)
            write_icw1(u, v);
        else if (v & OCW3)
            write_ocw3(u, v);
        else
            write_ocw2(u, v);
    } else if (u->init_step != 0) {
        write_icw(u, v);
    } else {
        u->imr = v;
    }
    (void)update(p); /* the caller looks at intr */
}

uint8_t vmci_pic_read(struct vmci_pic *p, unsigned unit, unsigned reg)
{
    struct vmci_pic_unit *u = &p->unit[unit & 1];

    if (u->poll) {
        int input = requested(p, u);
        u->poll = false;
        if (input < 0)
            return 0;
        acknowledge(u, (unsigned)input);
        (void)update(p); /* the caller looks at intr */
        return (uint8_t)(0x80 | input);
    }
    if (reg == 1)
        return u->imr;
    return u->read_isr ? u->isr : u->irr;
}

void vmci_pic_write_elcr(struct vmci_pic *p, unsigned unit, uint8_t v)
{
    struct vmci_pic_unit *u = &p->unit[unit & 1];

    u->elcr = v & (unit == 0 ? ELCR_MASTER : ELCR_SLAVE);
    /* Requests of level inputs follow the wire from now on. */
    uint8_t level = level_inputs(u);
    u->irr = (u->irr & (uint8_t)~level) | (u->lines & level);
    (void)update(p); /* the caller looks at intr */
}

void vmci_pic_reset(struct vmci_pic *p)
{
    for (unsigned i = 0; i < 2; i++) {
        uint8_t lines = p->unit[i].lines;
        /* The mask is undefined until ICW1 clears it; closed, nothing comes with a vector that
           nobody has programmed. */
        p->unit[i] = (struct vmci_pic_unit){.lines = lines, .lowest = 7, .imr = 0xff};
    }
    (void)update(p); /* nothing is requested after a reset */
}
