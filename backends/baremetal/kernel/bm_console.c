/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The serial line: a 16550 at 115200 baud. Output goes through a ring that interrupts empty; when
 * the ring is full, whoever writes helps.
 */
#include "bm_int.h"

#define RING       32768u
#define IER_RX     1u
#define IER_TX     2u
#define LSR_DATA   1u
#define LSR_THRE   0x20u
#define FIFO_BYTES 16u

static uint16_t port = 0x3f8;
static bool present, by_irq;
static uint8_t ier; /* as last written while interrupts are used */
static struct bm_lock lock;
static uint8_t tx[RING], rx[1024];
static uint32_t tx_head, tx_tail, rx_head, rx_tail;

/* ---- the UART ----------------------------------------------------------------------------------
 */

void bm_serial_init(void)
{
    char opt[16];

    if (bm_boot_option("serial", opt, sizeof(opt))) {
        unsigned v = 0;
        for (const char *p = opt[0] == '0' && opt[1] == 'x' ? opt + 2 : opt; *p != 0; p++)
            v = v * 16 + (unsigned)(*p <= '9' ? *p - '0' : (*p | 32) - 'a' + 10);
        port = (uint16_t)v;
    }
    outb(port + 1, 0);
    outb(port + 3, 0x80); /* divisor 1: 115200 */
    outb(port + 0, 1);
    outb(port + 1, 0);
    outb(port + 3, 3);    /* 8n1 */
    outb(port + 2, 7);    /* FIFOs on and empty */
    outb(port + 4, 0x0b); /* DTR, RTS, OUT2: interrupts reach the bus */
    outb(port + 7, 0x5a);
    present = inb(port + 7) == 0x5a;
}

/* Up to a FIFO of characters if the last one is gone. An interrupt asks for the rest. With the
 * lock. */
static void feed(void)
{
    if (inb(port + 5) & LSR_THRE)
        for (unsigned i = 0; i < FIFO_BYTES && tx_tail != tx_head; i++)
            outb(port, tx[tx_tail++ % RING]);
    uint8_t want = IER_RX | (tx_tail != tx_head ? IER_TX : 0);
    if (by_irq && want != ier) {
        ier = want;
        outb(port + 1, want);
    }
}

static void take_input(void)
{
    while (inb(port + 5) & LSR_DATA) {
        uint8_t c = inb(port);
        if (rx_head - rx_tail < sizeof(rx))
            rx[rx_head++ % sizeof(rx)] = c;
    }
}

static void on_irq(void *ctx)
{
    (void)ctx;
    bm_lock(&lock); /* in interrupt context already */
    for (unsigned i = 0; i < 8 && (inb(port + 2) & 1) == 0; i++) {
        take_input();
        feed();
    }
    bm_unlock(&lock);
}

void bm_serial_irq(void)
{
    if (!present)
        return;
    bool has_irq = bm_irq_isa(port == 0x2f8 ? 3 : 4, on_irq, NULL);
    bool on = bm_lock_irq(&lock); /* others print already */
    by_irq = has_irq;
    ier = 0;
    feed();
    bm_unlock_irq(&lock, on);
}

void bm_puts(const char *s, size_t n)
{
    if (!present)
        return;
    bool on = bm_lock_irq(&lock);
    for (size_t i = 0; i < n; i++) {
        while (tx_head - tx_tail >= RING - 1)
            feed();
        if (s[i] == '\n')
            tx[tx_head++ % RING] = '\r';
        tx[tx_head++ % RING] = (uint8_t)s[i];
    }
    feed();
    while (!by_irq && tx_tail != tx_head)
        feed();
    bm_unlock_irq(&lock, on);
}

/* Everything out, by polling: before a halt. */
void bm_serial_flush(void)
{
    if (!present)
        return;
    bool on = irq_save();
    for (unsigned i = 0; i < 1000000 && tx_tail != tx_head; i++)
        feed();
    for (unsigned i = 0; i < 100000 && (inb(port + 5) & 0x40) == 0; i++)
        ;
    irq_restore(on);
}

/* Whoever holds the lock will not come back. */
void bm_serial_panic(void)
{
    lock = (struct bm_lock){0};
    by_irq = false;
    if (present)
        outb(port + 1, 0);
}

void vmc_bm_write(const void *data, size_t bytes)
{
    const char *s = data;

    if (!present)
        return;
    bool on = bm_lock_irq(&lock);
    for (size_t i = 0; i < bytes; i++) {
        while (tx_head - tx_tail >= RING)
            feed();
        tx[tx_head++ % RING] = (uint8_t)s[i];
    }
    feed();
    while (!by_irq && tx_tail != tx_head)
        feed();
    bm_unlock_irq(&lock, on);
}

size_t vmc_bm_write_room(void)
{
    return by_irq ? RING - (tx_head - tx_tail) : RING;
}

size_t vmc_bm_read(void *data, size_t bytes)
{
    uint8_t *d = data;
    size_t n = 0;

    if (!present)
        return 0;
    bool on = bm_lock_irq(&lock);
    if (!by_irq)
        take_input();
    while (n < bytes && rx_tail != rx_head)
        d[n++] = rx[rx_tail++ % sizeof(rx)];
    bm_unlock_irq(&lock, on);
    return n;
}

/* ---- printf -------------------------------------------------------------------------------------
 */

struct out {
    char *dst;
    size_t room, n;
};

static void put(struct out *o, char c)
{
    if (o->n + 1 < o->room)
        o->dst[o->n] = c;
    o->n++;
}

struct spec {
    bool left, zero, alt;
    int width, prec;
    unsigned longs;
};

static void put_text(struct out *o, const struct spec *s, const char *p, size_t n, bool digits)
{
    char pad = s->zero && !s->left && digits ? '0' : ' ';
    int fill = s->width - (int)n;

    if (digits && pad == '0' && n > 0 && *p == '-') {
        put(o, '-');
        p++;
        n--;
    }
    for (; !s->left && fill > 0; fill--)
        put(o, pad);
    for (size_t i = 0; i < n; i++)
        put(o, p[i]);
    for (; s->left && fill > 0; fill--)
        put(o, ' ');
}

static void put_number(struct out *o, const struct spec *s, uint64_t v, bool neg, unsigned base,
                       bool upper)
{
    char buf[24];
    unsigned n = sizeof(buf);

    do {
        unsigned d = (unsigned)(v % base);
        buf[--n] = (char)(d < 10 ? '0' + d : (upper ? 'A' : 'a') + d - 10);
        v /= base;
    } while (v != 0);
    if (neg)
        buf[--n] = '-';
    put_text(o, s, buf + n, sizeof(buf) - n, true);
}

static const char *parse_spec(const char *f, struct spec *s, va_list ap)
{
    *s = (struct spec){.prec = -1};
    for (;; f++) {
        if (*f == '-')
            s->left = true;
        else if (*f == '0')
            s->zero = true;
        else if (*f == '#')
            s->alt = true;
        else
            break;
    }
    if (*f == '*') {
        s->width = va_arg(ap, int);
        f++;
    }
    for (; *f >= '0' && *f <= '9'; f++)
        s->width = s->width * 10 + *f - '0';
    if (*f == '.') {
        s->prec = 0;
        if (*++f == '*') {
            s->prec = va_arg(ap, int);
            f++;
        }
        for (; *f >= '0' && *f <= '9'; f++)
            s->prec = s->prec * 10 + *f - '0';
    }
    for (; *f == 'l' || *f == 'z' || *f == 'h' || *f == 'j'; f++)
        s->longs += *f != 'h';
    return f;
}

size_t bm_vsnprintf(char *dst, size_t bytes, const char *f, va_list args)
{
    struct out o = {dst, bytes, 0};
    va_list ap;

    va_copy(ap, args);
    for (; *f != 0; f++) {
        struct spec s;
        if (*f != '%') {
            put(&o, *f);
            continue;
        }
        f = parse_spec(f + 1, &s, ap);
        if (*f == 0)
            break;
        switch (*f) {
        case 'd':
        case 'i': {
            int64_t v = s.longs ? va_arg(ap, int64_t) : va_arg(ap, int);
            put_number(&o, &s, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, v < 0, 10, false);
            break;
        }
        case 'u':
            put_number(&o, &s, s.longs ? va_arg(ap, uint64_t) : va_arg(ap, unsigned), false, 10,
                       false);
            break;
        case 'x':
        case 'X': {
            uint64_t v = s.longs ? va_arg(ap, uint64_t) : va_arg(ap, unsigned);
            if (s.alt && v != 0) {
                put(&o, '0');
                put(&o, 'x');
            }
            put_number(&o, &s, v, false, 16, *f == 'X');
            break;
        }
        case 'p':
            put(&o, '0');
            put(&o, 'x');
            put_number(&o, &s, (uint64_t)va_arg(ap, void *), false, 16, false);
            break;
        case 'c': {
            char c = (char)va_arg(ap, int);
            put_text(&o, &s, &c, 1, false);
            break;
        }
        case 's': {
            const char *p = va_arg(ap, const char *);
            size_t n = 0;
            if (p == NULL)
                p = "(null)";
            while ((s.prec < 0 || n < (size_t)s.prec) && p[n] != 0)
                n++;
            put_text(&o, &s, p, n, false);
            break;
        }
        default:
            put(&o, *f);
            break;
        }
    }
    va_end(ap);
    if (bytes != 0)
        dst[o.n < bytes ? o.n : bytes - 1] = 0;
    return o.n;
}

size_t bm_snprintf(char *dst, size_t bytes, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    size_t n = bm_vsnprintf(dst, bytes, fmt, ap);
    va_end(ap);
    return n;
}

size_t vmc_bm_vsnprintf(char *dst, size_t bytes, const char *fmt, va_list ap)
{
    return bm_vsnprintf(dst, bytes, fmt, ap);
}

size_t vmc_bm_snprintf(char *dst, size_t bytes, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    size_t n = bm_vsnprintf(dst, bytes, fmt, ap);
    va_end(ap);
    return n;
}

static void vprint(const char *fmt, va_list ap)
{
    char text[512];
    size_t n = bm_vsnprintf(text, sizeof(text), fmt, ap);

    bm_puts(text, n < sizeof(text) ? n : sizeof(text) - 1);
}

void bm_printf(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
}

void vmc_bm_printf(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
}
