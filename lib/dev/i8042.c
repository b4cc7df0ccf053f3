/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 8042 keyboard controller with a PS/2 keyboard on its first port and nothing on the second, and
 * port 0x92 (IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device
 * Controller"). The output port and port 0x92 gate address line 20. As in QEMU and Bochs, the last
 * write to either decides, where a chipset ors the two; bit 1 of both tells the state.
 *
 * Threats (guest input: any byte to either port; outside input: scan codes)
 *   responses that nobody reads    queue of QUEUE bytes, then lost       i8042_queue_overflow
 *   key flood                      refused when the queue is full        i8042_key_flow_control
 */
#include "base/snapshot.h"
#include "dev_priv.h"

#define DATA_PORT   0x60
#define STATUS_PORT 0x64
#define PORT92      0x92
#define QUEUE       32

#define ST_OBF    0x01u
#define ST_SYS    0x04u
#define ST_CMD    0x08u
#define ST_UNLOCK 0x10u
#define ST_AUX    0x20u

#define CTR_KBD_INT   0x01u
#define CTR_AUX_INT   0x02u
#define CTR_SYS       0x04u
#define CTR_KBD_OFF   0x10u
#define CTR_AUX_OFF   0x20u
#define CTR_TRANSLATE 0x40u

#define OUT_NO_RESET 0x01u
#define OUT_A20      0x02u

#define P92_RESET 0x01u
#define P92_A20   0x02u

#define KBD_ACK    0xfau
#define KBD_RESEND 0xfeu
#define KBD_BAT_OK 0xaau

struct byte_queue {
    uint8_t head, count;
    uint8_t buf[QUEUE];
};

enum { SRC_CONTROLLER, SRC_CONTROLLER_AUX, SRC_KEYBOARD };

struct i8042_state {
    uint8_t ctr;      /* command byte */
    uint8_t outport;
    uint8_t cmd;      /* controller command that waits for its data byte, 0: none */
    uint8_t last_cmd; /* the last write went to the command port */
    uint8_t obf, obf_aux, data;
    uint8_t ram[32];  /* commands 0x20-0x3f and 0x60-0x7f; 0 is ctr */
    uint8_t kbd_cmd;  /* keyboard command that waits for its argument, 0: none */
    uint8_t kbd_scanning, kbd_leds, kbd_set, kbd_last;
    uint8_t release;  /* translation: the last code was the 0xf0 prefix */
    uint8_t port92;
    uint8_t irq1, irq12;
    struct byte_queue ctl, ctl_aux, kbd;
};
#define I8042_VERSION 1u

struct vmc_i8042 {
    struct dev_base base;
    struct vmc_i8042_config cfg;
    struct i8042_state st; /* (l) */
    bool reset_wanted;     /* (l) tell the sink once the lock is free */
};

/* Scan code set 2 to set 1, as the controller translates. */
static const uint8_t set1_of[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

/* ---- queues and output buffer -------------------------------------------------------------- */

static bool q_put(struct byte_queue *q, uint8_t v)
{
    if (q->count == QUEUE)
        return false;
    q->buf[(q->head + q->count) % QUEUE] = v;
    q->count++;
    return true;
}

static uint8_t q_get(struct byte_queue *q)
{
    uint8_t v = q->buf[q->head];

    q->head = (uint8_t)((q->head + 1) % QUEUE);
    q->count--;
    return v;
}

/* One code through the translator; false: it was the release prefix and is swallowed. */
static bool translate(struct i8042_state *s, uint8_t *v)
{
    if ((s->ctr & CTR_TRANSLATE) == 0)
        return true;
    if (*v == 0xf0) {
        s->release = 0x80;
        return false;
    }
    if (*v < 0x80)
        *v = set1_of[*v] | s->release;
    else if (*v == 0x83)
        *v = 0x41 | s->release;
    else if (*v == 0x84)
        *v = 0x54 | s->release;
    s->release = 0;
    return true;
}

static void irq_update(struct vmc_i8042 *k)
{
    struct i8042_state *s = &k->st;
    bool irq1 = s->obf && !s->obf_aux && (s->ctr & CTR_KBD_INT) != 0;
    bool irq12 = s->obf && s->obf_aux && (s->ctr & CTR_AUX_INT) != 0;

    if (irq1 != (s->irq1 != 0)) {
        s->irq1 = irq1;
        vmc_irq_set(&k->cfg.irq1, irq1);
    }
    if (irq12 != (s->irq12 != 0)) {
        s->irq12 = irq12;
        vmc_irq_set(&k->cfg.irq12, irq12);
    }
}

/* Fill the output buffer when it is empty: controller first, then the keyboard. */
static void obf_fill(struct vmc_i8042 *k)
{
    struct i8042_state *s = &k->st;

    if (!s->obf && s->ctl.count != 0) {
        s->data = q_get(&s->ctl);
        s->obf = 1;
        s->obf_aux = 0;
    }
    if (!s->obf && s->ctl_aux.count != 0) {
        s->data = q_get(&s->ctl_aux);
        s->obf = s->obf_aux = 1;
    }
    while (!s->obf && s->kbd.count != 0 && (s->ctr & CTR_KBD_OFF) == 0) {
        uint8_t v = q_get(&s->kbd);
        if (translate(s, &v)) {
            s->data = v;
            s->obf = 1;
            s->obf_aux = 0;
        }
    }
    irq_update(k);
}

/* ---- keyboard ------------------------------------------------------------------------------ */

static void kbd_send(struct i8042_state *s, uint8_t v)
{
    (void)q_put(&s->kbd, v); /* a full buffer loses what follows */
    s->kbd_last = v;
}

static void kbd_defaults(struct i8042_state *s)
{
    s->kbd_leds = 0;
    s->kbd_set = 2;
}

static void kbd_argument(struct i8042_state *s, uint8_t v)
{
    uint8_t cmd = s->kbd_cmd;

    s->kbd_cmd = 0;
    kbd_send(s, KBD_ACK);
    if (cmd == 0xed)
        s->kbd_leds = v & 7;
    else if (cmd == 0xf0 && v == 0)
        kbd_send(s, s->kbd_set);
    else if (cmd == 0xf0 && v <= 3)
        s->kbd_set = v;
}

static void kbd_write(struct i8042_state *s, uint8_t v)
{
    if (s->kbd_cmd != 0 && v < 0xed) {
        kbd_argument(s, v);
        return;
    }
    s->kbd_cmd = 0;
    switch (v) {
    case 0xed: /* LEDs */
    case 0xf0: /* scan code set */
    case 0xf3: /* typematic rate */
        s->kbd_cmd = v;
        kbd_send(s, KBD_ACK);
        break;
    case 0xee: /* echo */
        kbd_send(s, 0xee);
        break;
    case 0xf2: /* identify: an MF2 keyboard */
        kbd_send(s, KBD_ACK);
        kbd_send(s, 0xab);
        kbd_send(s, 0x83);
        break;
    case 0xf4:
        s->kbd_scanning = 1;
        kbd_send(s, KBD_ACK);
        break;
    case 0xf5:
        s->kbd_scanning = 0;
        kbd_defaults(s);
        kbd_send(s, KBD_ACK);
        break;
    case 0xf6:
        kbd_defaults(s);
        kbd_send(s, KBD_ACK);
        break;
    case 0xfe:
        kbd_send(s, s->kbd_last);
        break;
    case 0xff:
        s->kbd.count = 0;
        s->kbd_scanning = 1;
        kbd_defaults(s);
        kbd_send(s, KBD_ACK);
        kbd_send(s, KBD_BAT_OK);
        break;
    default:
        kbd_send(s, v >= 0xf7 && v <= 0xfd ? KBD_ACK : KBD_RESEND);
        break;
    }
}

size_t vmc_i8042_key(struct vmc_i8042 *k, const uint8_t *codes, size_t bytes)
{
    size_t n = 0;

    vmci_lock(&k->base.lock);
    while (n < bytes && k->st.kbd_scanning && q_put(&k->st.kbd, codes[n]))
        n++;
    obf_fill(k);
    vmci_unlock(&k->base.lock);
    return n;
}

/* ---- controller ---------------------------------------------------------------------------- */

static void gate_a20(struct vmc_i8042 *k, bool on)
{
    k->st.outport = (uint8_t)((k->st.outport & ~OUT_A20) | (on ? OUT_A20 : 0));
    k->st.port92 = (uint8_t)((k->st.port92 & ~P92_A20) | (on ? P92_A20 : 0));
    vmc_irq_set(&k->cfg.a20, on);
}

static void outport_write(struct vmc_i8042 *k, uint8_t v)
{
    if ((v & OUT_NO_RESET) == 0)
        k->reset_wanted = true;
    k->st.outport = v | OUT_NO_RESET;
    gate_a20(k, (v & OUT_A20) != 0);
}

static void reply(struct i8042_state *s, uint8_t v)
{
    (void)q_put(&s->ctl, v); /* at most a few; a guest that never reads loses them */
}

static void command(struct vmc_i8042 *k, uint8_t v)
{
    struct i8042_state *s = &k->st;

    s->cmd = 0;
    if (v >= 0x20 && v < 0x40) {
        reply(s, v == 0x20 ? s->ctr : s->ram[v & 31]);
    } else if ((v >= 0x60 && v < 0x80) || (v >= 0xd1 && v <= 0xd4)) {
        s->cmd = v;
    } else if (v >= 0xf0) { /* pulse the low output lines that are 0 */
        if ((v & OUT_NO_RESET) == 0)
            k->reset_wanted = true;
    } else {
        switch (v) {
        case 0xa7:
            s->ctr |= CTR_AUX_OFF;
            break;
        case 0xa8:
            s->ctr &= (uint8_t)~CTR_AUX_OFF;
            break;
        case 0xa9: /* second port's wires are fine */
        case 0xab: /* so are the first's */
            reply(s, 0x00);
            break;
        case 0xaa: /* self-test */
            s->ctr |= CTR_SYS;
            reply(s, 0x55);
            break;
        case 0xad:
            s->ctr |= CTR_KBD_OFF;
            break;
        case 0xae:
            s->ctr &= (uint8_t)~CTR_KBD_OFF;
            break;
        case 0xc0: /* input port: keyboard not locked */
            reply(s, 0x80);
            break;
        case 0xd0:
            reply(s, (uint8_t)(s->outport | (s->obf && !s->obf_aux ? 0x10 : 0) |
                               (s->obf && s->obf_aux ? 0x20 : 0)));
            break;
        case 0xdd: /* A20 off and on, on some chips */
            gate_a20(k, false);
            break;
        case 0xdf:
            gate_a20(k, true);
            break;
        default: /* unknown commands do nothing */
            break;
        }
    }
}

static void device_write(struct vmc_i8042 *k, uint8_t v)
{
    struct i8042_state *s = &k->st;
    uint8_t cmd = s->cmd;

    s->cmd = 0;
    switch (cmd) {
    case 0:
        s->ctr &= (uint8_t)~CTR_KBD_OFF; /* talking to the keyboard enables it */
        kbd_write(s, v);
        break;
    case 0x60:
        s->ctr = v;
        break;
    case 0xd1:
        outport_write(k, v);
        break;
    case 0xd2: /* as if the keyboard had sent it */
        reply(s, v);
        break;
    case 0xd3: /* as if the second device had sent it */
        (void)q_put(&s->ctl_aux, v);
        break;
    case 0xd4: /* to the second device: there is none, nothing answers */
        break;
    default:
        s->ram[cmd & 31] = v;
        break;
    }
}

/* ---- ports --------------------------------------------------------------------------------- */

static void unlock_and_reset(struct vmc_i8042 *k)
{
    bool reset = k->reset_wanted;

    k->reset_wanted = false;
    vmci_unlock(&k->base.lock);
    if (reset)
        dev_stop(&k->cfg.stop, VMC_STOP_RESET, 0);
}

static uint8_t data_read8(void *dev, uint64_t offset)
{
    struct vmc_i8042 *k = dev;

    (void)offset;
    vmci_lock(&k->base.lock);
    uint8_t v = k->st.data; /* an empty buffer reads its last value */
    k->st.obf = k->st.obf_aux = 0;
    irq_update(k);
    obf_fill(k);
    vmci_unlock(&k->base.lock);
    return v;
}

static void data_write8(void *dev, uint64_t offset, uint8_t v)
{
    struct vmc_i8042 *k = dev;

    (void)offset;
    vmci_lock(&k->base.lock);
    k->st.last_cmd = 0;
    device_write(k, v);
    obf_fill(k);
    unlock_and_reset(k);
}

static uint8_t status_read8(void *dev, uint64_t offset)
{
    struct vmc_i8042 *k = dev;

    (void)offset;
    vmci_lock(&k->base.lock);
    const struct i8042_state *s = &k->st;
    uint8_t v = (uint8_t)(ST_UNLOCK | (s->obf ? ST_OBF : 0) | (s->obf_aux ? ST_AUX : 0) |
                          ((s->ctr & CTR_SYS) != 0 ? ST_SYS : 0) | (s->last_cmd ? ST_CMD : 0));
    vmci_unlock(&k->base.lock);
    return v;
}

static void status_write8(void *dev, uint64_t offset, uint8_t v)
{
    struct vmc_i8042 *k = dev;

    (void)offset;
    vmci_lock(&k->base.lock);
    k->st.last_cmd = 1;
    command(k, v);
    obf_fill(k);
    unlock_and_reset(k);
}

static uint8_t port92_read8(void *dev, uint64_t offset)
{
    struct vmc_i8042 *k = dev;

    (void)offset;
    vmci_lock(&k->base.lock);
    uint8_t v = k->st.port92;
    vmci_unlock(&k->base.lock);
    return v;
}

static void port92_write8(void *dev, uint64_t offset, uint8_t v)
{
    struct vmc_i8042 *k = dev;

    (void)offset;
    vmci_lock(&k->base.lock);
    if ((v & P92_RESET) != 0 && (k->st.port92 & P92_RESET) == 0)
        k->reset_wanted = true;
    k->st.port92 = v;
    gate_a20(k, (v & P92_A20) != 0);
    unlock_and_reset(k);
}

DEV_BYTE_OPS(data);
DEV_BYTE_OPS(status);
DEV_BYTE_OPS(port92);

/* ---- life cycle ---------------------------------------------------------------------------- */

static void i8042_reset(void *dev)
{
    struct vmc_i8042 *k = dev;

    vmci_lock(&k->base.lock);
    uint8_t irq1 = k->st.irq1, irq12 = k->st.irq12;
    k->st = (struct i8042_state){
        .ctr = CTR_KBD_INT | CTR_AUX_INT | CTR_TRANSLATE,
        .outport = OUT_NO_RESET,
        .kbd_set = 2,
        .kbd_scanning = 1,
        .irq1 = irq1,
        .irq12 = irq12,
    };
    gate_a20(k, true);
    irq_update(k);
    vmci_unlock(&k->base.lock);
}

static size_t i8042_save(void *dev, void *dst, size_t bytes)
{
    struct vmc_i8042 *k = dev;

    vmci_lock(&k->base.lock);
    size_t n = vmci_dev_save(&k->base, I8042_VERSION, &k->st, sizeof(k->st), dst, bytes);
    vmci_unlock(&k->base.lock);
    return n;
}

static bool q_ok(const struct byte_queue *q)
{
    return q->head < QUEUE && q->count <= QUEUE;
}

static int i8042_load(void *dev, const void *src, size_t bytes, struct vmc_error *err)
{
    struct vmc_i8042 *k = dev;
    struct i8042_state s;
    uint64_t shift;
    int rc = vmci_dev_load(&k->base, I8042_VERSION, src, bytes, &s, sizeof(s), &shift, err);

    if (rc != VMC_OK)
        return rc;
    if (!q_ok(&s.ctl) || !q_ok(&s.ctl_aux) || !q_ok(&s.kbd))
        return vmci_error(err, VMC_EFORMAT, "i8042/load", "queue position out of range");
    vmci_lock(&k->base.lock);
    k->st = s;
    gate_a20(k, (s.outport & OUT_A20) != 0 || (s.port92 & P92_A20) != 0);
    vmc_irq_set(&k->cfg.irq1, s.irq1 != 0);
    vmc_irq_set(&k->cfg.irq12, s.irq12 != 0);
    vmci_unlock(&k->base.lock);
    return VMC_OK;
}

static void i8042_destroy(void *dev)
{
    struct vmc_i8042 *k = dev;

    vmci_dev_detach(&k->base, k->base.bd->pio, DATA_PORT);
    vmci_dev_detach(&k->base, k->base.bd->pio, STATUS_PORT);
    vmci_dev_detach(&k->base, k->base.bd->pio, PORT92);
    vmci_dev_free(&k->base);
}

static const struct vmc_device_ops i8042_device_ops = {.name = "i8042",
                                                       .reset = i8042_reset,
                                                       .destroy = i8042_destroy,
                                                       .save = VMCI_SNAPSHOT(i8042_save),
                                                       .load = VMCI_SNAPSHOT(i8042_load)};

int vmc_i8042_create(struct vmc_board *bd, const struct vmc_i8042_config *cfg,
                     struct vmc_i8042 **out, struct vmc_error *err)
{
    if (cfg->size != sizeof(*cfg))
        return vmci_error(err, VMC_EINVAL, "i8042/create", "bad configuration size");
    struct vmc_i8042 *k = vmci_dev_alloc(bd, sizeof(*k), &i8042_device_ops, err);
    if (k == NULL)
        return VMC_ENOMEM;
    k->cfg = *cfg;
    i8042_reset(k);
    int rc = vmc_bus_attach(bd->pio, DATA_PORT, 1, &data_ops, k, err);
    if (rc != VMC_OK)
        goto free;
    rc = vmc_bus_attach(bd->pio, STATUS_PORT, 1, &status_ops, k, err);
    if (rc != VMC_OK)
        goto data;
    rc = vmc_bus_attach(bd->pio, PORT92, 1, &port92_ops, k, err);
    if (rc != VMC_OK)
        goto status;
    vmci_dev_publish(&k->base);
    *out = k;
    return VMC_OK;
status:
    vmci_dev_detach(&k->base, bd->pio, STATUS_PORT);
data:
    vmci_dev_detach(&k->base, bd->pio, DATA_PORT);
free:
    vmci_dev_free(&k->base);
    return rc;
}
