/* SPDX-License-Identifier: BSD-2-Clause */
/* A small snprintf: error texts and log lines need one, and lib/ has no libc. */
#include "base/base_int.h"

struct out {
    char *dst;
    size_t cap;
    size_t len;
};

struct spec {
    bool left, zero;
    unsigned width;
    unsigned precision; /* of strings; UINT32_MAX: none */
    unsigned longs;     /* 0 int, 1 long, 2 long long; z counts as 1 */
};

static void put(struct out *o, char c)
{
    if (o->len + 1 < o->cap)
        o->dst[o->len] = c;
    o->len++;
}

static void put_padded(struct out *o, const struct spec *s, const char *text, size_t n,
                       const char *sign)
{
    size_t total = n + vmci_strlen(sign);
    size_t pad = s->width > total ? s->width - total : 0;

    if (!s->left && !s->zero)
        for (; pad > 0; pad--)
            put(o, ' ');
    for (; *sign != '\0'; sign++)
        put(o, *sign);
    if (!s->left && s->zero)
        for (; pad > 0; pad--)
            put(o, '0');
    for (size_t i = 0; i < n; i++)
        put(o, text[i]);
    for (; pad > 0; pad--)
        put(o, ' ');
}

static void put_number(struct out *o, const struct spec *s, uint64_t v, unsigned base, bool upper,
                       const char *sign)
{
    const char *digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    char buf[24];
    size_t at = sizeof(buf);

    do {
        buf[--at] = digits[v % base];
        v /= base;
    } while (v != 0);
    put_padded(o, s, buf + at, sizeof(buf) - at, sign);
}

static unsigned parse_number(const char **fmt)
{
    unsigned v = 0;

    while (**fmt >= '0' && **fmt <= '9') {
        v = v * 10 + (unsigned)(**fmt - '0');
        (*fmt)++;
    }
    return v;
}

static struct spec parse_spec(const char **fmt, va_list *ap)
{
    struct spec s = {.precision = UINT32_MAX};

    for (;; (*fmt)++) {
        if (**fmt == '-')
            s.left = true;
        else if (**fmt == '0')
            s.zero = true;
        else
            break;
    }
    if (**fmt == '*') {
        s.width = va_arg(*ap, unsigned);
        (*fmt)++;
    } else {
        s.width = parse_number(fmt);
    }
    if (**fmt == '.') {
        (*fmt)++;
        if (**fmt == '*') {
            s.precision = va_arg(*ap, unsigned);
            (*fmt)++;
        } else {
            s.precision = parse_number(fmt);
        }
    }
    for (;; (*fmt)++) {
        if (**fmt == 'l')
            s.longs++;
        else if (**fmt == 'z')
            s.longs = 1;
        else if (**fmt != 'h')
            break;
    }
    return s;
}

static uint64_t arg_unsigned(const struct spec *s, va_list *ap)
{
    return s->longs == 0 ? va_arg(*ap, unsigned) : va_arg(*ap, unsigned long);
}

static int64_t arg_signed(const struct spec *s, va_list *ap)
{
    return s->longs == 0 ? va_arg(*ap, int) : va_arg(*ap, long);
}

static void put_string(struct out *o, const struct spec *s, const char *text)
{
    size_t n = 0;

    if (text == NULL)
        text = "(null)";
    while (n < s->precision && text[n] != '\0')
        n++;
    put_padded(o, s, text, n, "");
}

size_t vmci_vsnprintf(char *dst, size_t bytes, const char *fmt, va_list args)
{
    struct out o = {.dst = dst, .cap = bytes};
    va_list ap;

    va_copy(ap, args);
    for (; *fmt != '\0'; fmt++) {
        if (*fmt != '%') {
            put(&o, *fmt);
            continue;
        }
        fmt++;
        struct spec s = parse_spec(&fmt, &ap);
        char c = *fmt;
        if (c == '\0')
            break;
        switch (c) {
        case 's':
            put_string(&o, &s, va_arg(ap, const char *));
            break;
        case 'c': {
            char ch = (char)va_arg(ap, int);
            put_padded(&o, &s, &ch, 1, "");
            break;
        }
        case 'd':
        case 'i': {
            int64_t v = arg_signed(&s, &ap);
            put_number(&o, &s, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, 10, false, v < 0 ? "-" : "");
            break;
        }
        case 'u':
            put_number(&o, &s, arg_unsigned(&s, &ap), 10, false, "");
            break;
        case 'x':
        case 'X':
            put_number(&o, &s, arg_unsigned(&s, &ap), 16, c == 'X', "");
            break;
        case 'p':
            put_number(&o, &s, (uintptr_t)va_arg(ap, void *), 16, false, "0x");
            break;
        case '%':
            put(&o, '%');
            break;
        default:
            put(&o, '%');
            put(&o, c);
            break;
        }
    }
    va_end(ap);
    if (bytes > 0)
        dst[VMCI_MIN(o.len, bytes - 1)] = '\0';
    return o.len;
}

size_t vmci_snprintf(char *dst, size_t bytes, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    size_t n = vmci_vsnprintf(dst, bytes, fmt, ap);
    va_end(ap);
    return n;
}
