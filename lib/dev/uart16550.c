/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 16550A UART (National Semiconductor PC16550D data sheet).
 *
 * Output is instantaneous unless the far end refuses it; then the transmit FIFO fills and empties
 * like a real one. The interrupt output is the chip's INTR pin: OUT2 does not gate it, since guests
 * exist that never set OUT2 and boards exist that ignore it.
 *
 * Threats (guest input: any byte to any register; outside input: characters)
 *   writes faster than the far end      FIFO of 16, then lost       slow_output_keeps_order
 *   flood from outside                  FIFO of 16, then refused    input_flow_control
 *   divisor 0 or huge                   timeout clamped             divisor_zero
 */
#include "base/snapshot.h"
#include "dev_priv.h"

#define FIFO_SIZE   16
#define UART_PORTS  8
#define CLOCK_HZ    1843200u
#define RETRY_NS    4000000u /* how often a far end that refused is asked again */
#define MAX_CHAR_NS NS_PER_S
/* What means that a guest waits for input:
   - the receive interrupt is on a time after it was switched on, since drivers also switch it on
     and off to identify the chip;
   - looks in a row at an idle receiver, with no other access between them;
   - over time, looks in pairs, as of a poll and the wait for the transmitter that follows it: a
     console that only sends has few of them, and not for long;
   - looks of any kind for so long that it is no longer a guest that starts.
   Both of the latter are counted at most once in LISTEN_NS. */
#define LISTEN_NS     100000000u
#define LISTEN_LOOKS  3u
#define LISTEN_PAIRS  20u
#define LISTEN_SINGLE 600u

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RX    0x01u
#define IER_THRE  0x02u
#define IER_LINE  0x04u
#define IER_MODEM 0x08u

#define IIR_NONE    0x01u
#define IIR_MODEM   0x00u
#define IIR_THRE    0x02u
#define IIR_RX      0x04u
#define IIR_LINE    0x06u
#define IIR_TIMEOUT 0x0cu
#define IIR_FIFO    0xc0u

#define FCR_ENABLE   0x01u
#define FCR_CLEAR_RX 0x02u
#define FCR_CLEAR_TX 0x04u
#define FCR_KEPT     0xc9u

#define LCR_STOP   0x04u
#define LCR_PARITY 0x08u
#define LCR_BREAK  0x40u
#define LCR_DLAB   0x80u

#define MCR_DTR  0x01u
#define MCR_RTS  0x02u
#define MCR_OUT1 0x04u
#define MCR_OUT2 0x08u
#define MCR_LOOP 0x10u
#define MCR_MASK 0x1fu

#define LSR_DR   0x01u
#define LSR_OE   0x02u
#define LSR_FE   0x08u
#define LSR_BI   0x10u
#define LSR_THRE 0x20u
#define LSR_TEMT 0x40u
#define LSR_ERRS 0x80u /* an error is somewhere in the FIFO */
#define LSR_INT  (LSR_OE | 0x04u | LSR_FE | LSR_BI)

#define MSR_DCTS 0x01u
#define MSR_DDSR 0x02u
#define MSR_TERI 0x04u
#define MSR_DDCD 0x08u
#define MSR_CTS  0x10u
#define MSR_DSR  0x20u
#define MSR_RI   0x40u
#define MSR_DCD  0x80u

struct uart_state {
    uint8_t ier, fcr, lcr, mcr, lsr_err, msr, scr;
    uint8_t dll, dlm;
    uint8_t thre_pending; /* the transmitter interrupt is latched until IIR is read */
    uint8_t timeout;      /* characters wait below the trigger level */
    uint8_t irq;
    uint8_t rx_head, rx_count;
    uint8_t tx_head, tx_count;
    uint8_t rx[FIFO_SIZE], rx_err[FIFO_SIZE];
    uint8_t tx[FIFO_SIZE];
    uint64_t timeout_at; /* 0: not running */
};
#define UART_VERSION 1u

struct vmc_uart {
    struct dev_base base;
    struct vmc_uart_config cfg;
    struct uart_state st;     /* (l) */
    bool draining;            /* (l) a thread is handing tx to the far end */
    bool refused;             /* (l) input was refused: tell when there is room */
    bool listening;           /* (l) the guest has looked for input; always, unless PATIENT */
    bool listen_armed;        /* (l) the timer of that name runs */
    uint8_t looks;            /* (l) at an idle receiver, in a row */
    uint16_t pairs, singles;  /* (l) of them, counted over time */
    uint64_t pair_ns;         /* (l) when the next pair counts */
    uint64_t single_ns;       /* (l) and the next single look */
    uint32_t tx_epoch;        /* (l) counts how often the transmit FIFO was cleared */
    struct vmc_timer *timer;  /* receive timeout */
    struct vmc_timer *retry;  /* output that was refused */
    struct vmc_timer *listen; /* is the receive interrupt still on? */
};

/* ---- interrupt ----------------------------------------------------------------------------- */

static uint8_t rx_trigger(const struct uart_state *s)
{
    static const uint8_t level[4] = {1, 4, 8, 14};

    return (s->fcr & FCR_ENABLE) != 0 ? level[s->fcr >> 6] : 1;
}

static uint8_t lsr_value(const struct uart_state *s)
{
    uint8_t v = s->lsr_err;

    if (s->rx_count != 0) {
        v |= LSR_DR | s->rx_err[s->rx_head];
        for (unsigned i = 0; (s->fcr & FCR_ENABLE) != 0 && i < s->rx_count; i++) {
            if (s->rx_err[(s->rx_head + i) % FIFO_SIZE] != 0)
                v |= LSR_ERRS;
        }
    }
    if (s->tx_count == 0)
        v |= LSR_THRE | LSR_TEMT;
    return v;
}

static uint8_t iir_source(const struct uart_state *s)
{
    if ((s->ier & IER_LINE) != 0 && (lsr_value(s) & LSR_INT) != 0)
        return IIR_LINE;
    if ((s->ier & IER_RX) != 0 && s->rx_count >= rx_trigger(s))
        return IIR_RX;
    if ((s->ier & IER_RX) != 0 && s->timeout)
        return IIR_TIMEOUT;
    if ((s->ier & IER_THRE) != 0 && s->thre_pending)
        return IIR_THRE;
    if ((s->ier & IER_MODEM) != 0 && (s->msr & 0x0f) != 0)
        return IIR_MODEM;
    return IIR_NONE;
}

static void irq_update(struct vmc_uart *u)
{
    bool level = iir_source(&u->st) != IIR_NONE;

    if (level != (u->st.irq != 0)) {
        u->st.irq = level;
        vmc_irq_set(&u->cfg.irq, level);
    }
}

/* ---- receiver ------------------------------------------------------------------------------ */

/* Duration of a character at the programmed speed. */
static uint64_t char_ns(const struct uart_state *s)
{
    unsigned divisor = (unsigned)s->dlm << 8 | s->dll;
    unsigned bits =
        1 + 5 + (s->lcr & 3) + ((s->lcr & LCR_PARITY) != 0) + 1 + ((s->lcr & LCR_STOP) != 0);

    return VMCI_MIN((uint64_t)bits * 16 * VMCI_MAX(divisor, 1u) * NS_PER_S / CLOCK_HZ, MAX_CHAR_NS);
}

/* The FIFO timeout starts again with every character that comes or goes (data sheet 8.4.2). */
static void timeout_restart(struct vmc_uart *u)
{
    struct uart_state *s = &u->st;

    s->timeout = 0;
    if ((s->fcr & FCR_ENABLE) != 0 && s->rx_count != 0) {
        s->timeout_at = dev_now(&u->base) + 4 * char_ns(s);
        vmc_timer_arm(u->timer, s->timeout_at);
    } else if (s->timeout_at != 0) {
        s->timeout_at = 0;
        vmc_timer_disarm(u->timer);
    }
}

static void timeout_fn(void *ctx, uint64_t deadline_ns)
{
    struct vmc_uart *u = ctx;

    (void)deadline_ns;
    vmci_lock(&u->base.lock);
    /* Restarted or stopped since this deadline was taken from the queue? */
    if (u->st.timeout_at != 0 && u->st.timeout_at <= dev_now(&u->base)) {
        u->st.timeout_at = 0;
        u->st.timeout = u->st.rx_count != 0;
        irq_update(u);
    }
    vmci_unlock(&u->base.lock);
}

static unsigned rx_room(const struct uart_state *s)
{
    unsigned size = (s->fcr & FCR_ENABLE) != 0 ? FIFO_SIZE : 1;

    return s->rx_count < size ? size - s->rx_count : 0;
}

static void rx_put(struct vmc_uart *u, uint8_t c, uint8_t err)
{
    struct uart_state *s = &u->st;

    if (rx_room(s) == 0) {
        s->lsr_err |= LSR_OE;
        return;
    }
    unsigned at = (s->rx_head + s->rx_count) % FIFO_SIZE;
    s->rx[at] = c;
    s->rx_err[at] = err;
    s->rx_count++;
    timeout_restart(u);
}

static uint8_t rx_get(struct vmc_uart *u)
{
    struct uart_state *s = &u->st;

    if (s->rx_count == 0)
        return 0;
    uint8_t c = s->rx[s->rx_head];
    s->rx_head = (uint8_t)((s->rx_head + 1) % FIFO_SIZE);
    s->rx_count--;
    timeout_restart(u);
    return c;
}

/* ---- transmitter --------------------------------------------------------------------------- */

static void tx_empty(struct uart_state *s)
{
    s->thre_pending = 1;
}

/*
 * Hand the FIFO to the far end. Called with the lock held, drops it around each call out; the
 * thread that finds draining set leaves the work to the one that set it.
 */
static void tx_drain(struct vmc_uart *u)
{
    struct uart_state *s = &u->st;

    if (u->draining)
        return;
    u->draining = true;
    while (s->tx_count != 0) {
        uint8_t chunk[FIFO_SIZE];
        unsigned n = s->tx_count;
        uint32_t epoch = u->tx_epoch;
        int took = (int)n;

        for (unsigned i = 0; i < n; i++)
            chunk[i] = s->tx[(s->tx_head + i) % FIFO_SIZE];
        if (u->cfg.out.ops != NULL) {
            vmci_unlock(&u->base.lock);
            took = u->cfg.out.ops->write(u->cfg.out.ctx, chunk, n);
            vmci_lock(&u->base.lock);
        }
        if (epoch != u->tx_epoch)
            continue; /* cleared meanwhile: what is there now is new */
        if (took == 0 || took == VMC_EAGAIN) {
            vmc_timer_arm(u->retry, dev_now(&u->base) + RETRY_NS);
            break;
        }
        unsigned gone = took < 0 ? n : VMCI_MIN((unsigned)took, n); /* failed: lost */
        s->tx_head = (uint8_t)((s->tx_head + gone) % FIFO_SIZE);
        s->tx_count = (uint8_t)(s->tx_count - gone);
        if (s->tx_count == 0)
            tx_empty(s);
    }
    u->draining = false;
    irq_update(u);
}

static void retry_fn(void *ctx, uint64_t deadline_ns)
{
    (void)deadline_ns;
    vmc_uart_output_ready(ctx);
}

void vmc_uart_output_ready(struct vmc_uart *u)
{
    vmci_lock(&u->base.lock);
    tx_drain(u);
    vmci_unlock(&u->base.lock);
}

static void tx_put(struct vmc_uart *u, uint8_t c)
{
    struct uart_state *s = &u->st;

    /* The line falls before the emptied transmitter raises it again: a new edge, also for a driver
       that never reads IIR (data sheet, table of interrupt control functions). */
    s->thre_pending = 0;
    irq_update(u);
    if ((s->mcr & MCR_LOOP) != 0) {
        rx_put(u, c, 0);
        tx_empty(s);
        return;
    }
    unsigned size = (s->fcr & FCR_ENABLE) != 0 ? FIFO_SIZE : 1;
    if (s->tx_count < size) {
        s->tx[(s->tx_head + s->tx_count) % FIFO_SIZE] = c;
        s->tx_count++;
    } else { /* the holding register is overwritten */
        s->tx[(s->tx_head + s->tx_count - 1) % FIFO_SIZE] = c;
    }
    tx_drain(u);
}

/* ---- modem lines --------------------------------------------------------------------------- */

/* The far end is always there: CTS, DSR and DCD are on. In loopback MCR drives them. */
static uint8_t modem_inputs(const struct uart_state *s)
{
    if ((s->mcr & MCR_LOOP) == 0)
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (uint8_t)(((s->mcr & MCR_RTS) != 0 ? MSR_CTS : 0) |
                     ((s->mcr & MCR_DTR) != 0 ? MSR_DSR : 0) |
                     ((s->mcr & MCR_OUT1) != 0 ? MSR_RI : 0) |
                     ((s->mcr & MCR_OUT2) != 0 ? MSR_DCD : 0));
}

static void modem_update(struct uart_state *s)
{
    uint8_t now = modem_inputs(s), was = s->msr & 0xf0;
    uint8_t changed = now ^ was;
    uint8_t delta = s->msr & 0x0f;

    if ((changed & MSR_CTS) != 0)
        delta |= MSR_DCTS;
    if ((changed & MSR_DSR) != 0)
        delta |= MSR_DDSR;
    if ((was & MSR_RI) != 0 && (now & MSR_RI) == 0) /* trailing edge only */
        delta |= MSR_TERI;
    if ((changed & MSR_DCD) != 0)
        delta |= MSR_DDCD;
    s->msr = now | delta;
}

/* ---- registers ----------------------------------------------------------------------------- */

static uint8_t iir_read(struct vmc_uart *u)
{
    struct uart_state *s = &u->st;
    uint8_t v = iir_source(s);

    if (v == IIR_THRE)
        s->thre_pending = 0;
    if ((s->fcr & FCR_ENABLE) != 0)
        v |= IIR_FIFO;
    return v;
}

/* Count what is seen once in LISTEN_NS; has it been seen often enough? */
static bool seen_often(uint16_t *count, uint64_t *next_ns, uint64_t now, unsigned enough)
{
    if (now < *next_ns)
        return false;
    *next_ns = now + LISTEN_NS;
    return ++*count >= enough;
}

/* The guest looked at the line status, and there is nothing to read and nothing being sent. */
static void watch_look(struct vmc_uart *u)
{
    uint64_t now = dev_now(&u->base);

    u->looks++;
    u->listening = u->looks >= LISTEN_LOOKS ||
                   seen_often(&u->singles, &u->single_ns, now, LISTEN_SINGLE) ||
                   (u->looks > 1 && seen_often(&u->pairs, &u->pair_ns, now, LISTEN_PAIRS));
}

/* Does this access show that the guest waits for input? */
static void watch_listener(struct vmc_uart *u, bool read, unsigned reg)
{
    bool idle = (lsr_value(&u->st) & (LSR_DR | LSR_THRE)) == LSR_THRE;

    if (read && reg == REG_LSR && idle) {
        watch_look(u);
        return;
    }
    u->looks = 0;
    /* A guest may switch the interrupt off and on again all the time: the timer is left alone. */
    if (!read && reg == REG_IER && (u->st.ier & IER_RX) != 0 && !u->listen_armed) {
        u->listen_armed = true;
        vmc_timer_arm(u->listen, dev_now(&u->base) + LISTEN_NS);
    }
}

static bool takes_input(const struct vmc_uart *u)
{
    return u->listening && rx_room(&u->st) != 0;
}

static uint8_t reg_read(struct vmc_uart *u, unsigned reg)
{
    struct uart_state *s = &u->st;
    bool dlab = (s->lcr & LCR_DLAB) != 0;
    uint8_t v = 0xff;

    switch (reg) {
    case REG_DATA:
        v = dlab ? s->dll : rx_get(u);
        break;
    case REG_IER:
        v = dlab ? s->dlm : s->ier;
        break;
    case REG_IIR_FCR:
        v = iir_read(u);
        break;
    case REG_LCR:
        v = s->lcr;
        break;
    case REG_MCR:
        v = s->mcr;
        break;
    case REG_LSR:
        v = lsr_value(s);
        s->lsr_err = 0;
        if (s->rx_count != 0)
            s->rx_err[s->rx_head] = 0;
        break;
    case REG_MSR:
        v = s->msr;
        s->msr &= 0xf0;
        break;
    case REG_SCR:
        v = s->scr;
        break;
    default:
        break;
    }
    return v;
}

static void fcr_write(struct vmc_uart *u, uint8_t v)
{
    struct uart_state *s = &u->st;

    /* Turning the FIFOs on or off empties them (data sheet 8.4). */
    if (((v ^ s->fcr) & FCR_ENABLE) != 0)
        v |= FCR_CLEAR_RX | FCR_CLEAR_TX;
    if ((v & FCR_CLEAR_RX) != 0) {
        s->rx_count = 0;
        s->rx_head = 0;
    }
    if ((v & FCR_CLEAR_TX) != 0 && s->tx_count != 0) {
        s->tx_count = 0;
        u->tx_epoch++;
        tx_empty(s);
    }
    s->fcr = (v & FCR_ENABLE) != 0 ? v & FCR_KEPT : 0;
    timeout_restart(u);
}

static void ier_write(struct uart_state *s, uint8_t v)
{
    /* Enabling the transmitter interrupt while it is idle raises it. */
    if ((v & IER_THRE) != 0 && (s->ier & IER_THRE) == 0 && s->tx_count == 0)
        s->thre_pending = 1;
    s->ier = v & 0x0f;
}

static void reg_write(struct vmc_uart *u, unsigned reg, uint8_t v)
{
    struct uart_state *s = &u->st;
    bool dlab = (s->lcr & LCR_DLAB) != 0;

    switch (reg) {
    case REG_DATA:
        if (dlab)
            s->dll = v;
        else
            tx_put(u, v);
        break;
    case REG_IER:
        if (dlab)
            s->dlm = v;
        else
            ier_write(s, v);
        break;
    case REG_IIR_FCR:
        fcr_write(u, v);
        break;
    case REG_LCR:
        if ((v & LCR_BREAK) != 0 && (s->lcr & LCR_BREAK) == 0 && (s->mcr & MCR_LOOP) != 0)
            rx_put(u, 0, LSR_BI | LSR_FE);
        s->lcr = v;
        break;
    case REG_MCR:
        s->mcr = v & MCR_MASK;
        modem_update(s);
        break;
    case REG_SCR:
        s->scr = v;
        break;
    default: /* LSR and MSR are read-only */
        break;
    }
}

/* Tell the outside that there is room, once a refusal. Called without the lock. */
static void notify_room(struct vmc_uart *u)
{
    vmci_lock(&u->base.lock);
    bool tell = u->refused && takes_input(u);
    if (tell)
        u->refused = false;
    void (*fn)(void *) = u->cfg.input_ready;
    void *ctx = u->cfg.input_ready_ctx;
    vmci_unlock(&u->base.lock);
    if (tell && fn != NULL)
        fn(ctx);
}

static void listen_fn(void *ctx, uint64_t deadline_ns)
{
    struct vmc_uart *u = ctx;

    (void)deadline_ns;
    vmci_lock(&u->base.lock);
    u->listen_armed = false;
    u->listening |= (u->st.ier & IER_RX) != 0;
    vmci_unlock(&u->base.lock);
    notify_room(u);
}

static uint8_t uart_read8(void *dev, uint64_t offset)
{
    struct vmc_uart *u = dev;

    vmci_lock(&u->base.lock);
    uint8_t v = reg_read(u, (unsigned)offset & 7);
    if (!u->listening)
        watch_listener(u, true, (unsigned)offset & 7);
    bool refused = u->refused;
    irq_update(u);
    vmci_unlock(&u->base.lock);
    if (refused)
        notify_room(u);
    return v;
}

static void uart_write8(void *dev, uint64_t offset, uint8_t v)
{
    struct vmc_uart *u = dev;

    vmci_lock(&u->base.lock);
    reg_write(u, (unsigned)offset & 7, v);
    if (!u->listening)
        watch_listener(u, false, (unsigned)offset & 7);
    bool refused = u->refused;
    irq_update(u);
    vmci_unlock(&u->base.lock);
    if (refused)
        notify_room(u);
}

DEV_BYTE_OPS(uart);

/* ---- the outside --------------------------------------------------------------------------- */

size_t vmc_uart_input(struct vmc_uart *u, const void *data, size_t bytes)
{
    const uint8_t *p = data;
    size_t n = 0;

    vmci_lock(&u->base.lock);
    /* In loopback the receiver is cut off from the line (data sheet 8.6.1). */
    while (n < bytes && takes_input(u) && (u->st.mcr & MCR_LOOP) == 0)
        rx_put(u, p[n++], 0);
    if (n < bytes)
        u->refused = true;
    irq_update(u);
    vmci_unlock(&u->base.lock);
    return n;
}

void vmc_uart_input_break(struct vmc_uart *u)
{
    vmci_lock(&u->base.lock);
    if ((u->st.mcr & MCR_LOOP) == 0)
        rx_put(u, 0, LSR_BI);
    irq_update(u);
    vmci_unlock(&u->base.lock);
}

void vmc_uart_set_input_ready(struct vmc_uart *u, void (*fn)(void *ctx), void *ctx)
{
    vmci_lock(&u->base.lock);
    u->cfg.input_ready = fn;
    u->cfg.input_ready_ctx = ctx;
    vmci_unlock(&u->base.lock);
}

/* ---- life cycle ---------------------------------------------------------------------------- */

static void uart_reset(void *dev)
{
    struct vmc_uart *u = dev;

    vmci_lock(&u->base.lock);
    bool irq = u->st.irq != 0;
    u->tx_epoch++;
    u->st = (struct uart_state){.dll = 1, .msr = MSR_CTS | MSR_DSR | MSR_DCD, .thre_pending = 1};
    u->listening = (u->cfg.flags & VMC_UART_PATIENT) == 0;
    u->listen_armed = false;
    u->looks = 0;
    u->pairs = u->singles = 0;
    u->pair_ns = u->single_ns = 0;
    vmc_timer_disarm(u->timer);
    vmc_timer_disarm(u->retry);
    vmc_timer_disarm(u->listen);
    if (irq)
        vmc_irq_set(&u->cfg.irq, false);
    vmci_unlock(&u->base.lock);
    notify_room(u);
}

static int uart_quiesce(void *dev)
{
    struct vmc_uart *u = dev;

    vmci_lock(&u->base.lock);
    bool busy = u->draining;
    vmci_unlock(&u->base.lock);
    return busy ? VMC_EAGAIN : VMC_OK;
}

static size_t uart_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_uart *u = dev;

    vmci_lock(&u->base.lock);
    size_t n = vmci_dev_save(&u->base, UART_VERSION, &u->st, sizeof(u->st), dst, bytes);
    vmci_unlock(&u->base.lock);
    return n;
}

static int uart_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_uart *u = dev;
    struct uart_state s;
    uint64_t shift;
    int rc = vmci_dev_load(&u->base, UART_VERSION, src, bytes, &s, sizeof(s), &shift, err);

    if (rc != VMC_OK)
        return rc;
    if (s.rx_head >= FIFO_SIZE || s.rx_count > FIFO_SIZE || s.tx_head >= FIFO_SIZE ||
        s.tx_count > FIFO_SIZE)
        return vmci_error(err, VMC_EFORMAT, "uart/load", "FIFO position out of range");
    vmci_lock(&u->base.lock);
    u->st = s;
    u->listening = true;
    vmc_irq_set(&u->cfg.irq, s.irq != 0);
    if (s.timeout_at != 0) {
        u->st.timeout_at += shift;
        vmc_timer_arm(u->timer, u->st.timeout_at);
    }
    tx_drain(u);
    vmci_unlock(&u->base.lock);
    notify_room(u); /* what was refused before may be taken now */
    return VMC_OK;
}

static void uart_destroy(void *dev)
{
    struct vmc_uart *u = dev;

    vmci_dev_detach(&u->base, u->base.bd->pio, u->cfg.port);
    vmc_timer_destroy(u->timer);
    vmc_timer_destroy(u->retry);
    vmc_timer_destroy(u->listen);
    vmci_dev_free(&u->base);
}

static const struct vmc_device_ops uart_device_ops = {
    .name = "uart",
    .reset = uart_reset,
    .quiesce = uart_quiesce,
    .destroy = uart_destroy,
    .save = VMCI_SNAPSHOT(uart_save),
    .load = VMCI_SNAPSHOT(uart_load),
};

int vmc_uart_create(struct vmc_board *bd, const struct vmc_uart_config *cfg, struct vmc_uart **out,
                    struct vmc_error *err)
{
    if (cfg->size != sizeof(*cfg) || (cfg->flags & ~VMC_UART_PATIENT) != 0)
        return vmci_error(err, VMC_EINVAL, "uart/create", "bad configuration size or flags");
    struct vmc_uart *u = vmci_dev_alloc(bd, sizeof(*u), &uart_device_ops, err);
    if (u == NULL)
        return VMC_ENOMEM;
    u->cfg = *cfg;
    int rc = vmc_timer_create(bd->timers, "uart-timeout", timeout_fn, u, &u->timer);
    if (rc != VMC_OK)
        goto free;
    rc = vmc_timer_create(bd->timers, "uart-retry", retry_fn, u, &u->retry);
    if (rc != VMC_OK)
        goto timer;
    rc = vmc_timer_create(bd->timers, "uart-listen", listen_fn, u, &u->listen);
    if (rc != VMC_OK)
        goto retry;
    uart_reset(u);
    rc = vmc_bus_attach(bd->pio, cfg->port, UART_PORTS, &uart_ops, u, err);
    if (rc != VMC_OK)
        goto listen;
    vmci_dev_publish(&u->base);
    *out = u;
    return VMC_OK;
listen:
    vmc_timer_destroy(u->listen);
retry:
    vmc_timer_destroy(u->retry);
timer:
    vmc_timer_destroy(u->timer);
free:
    vmci_dev_free(&u->base);
    return rc;
}
