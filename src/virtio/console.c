/* console.c: the virtio console device (virtio 1.2 §5.3), one port on a character backend; configuration section "console". */
#include <linux/virtio_console.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/virtio_state.h"
#include "vmm/chr.h"
#include "vmm/config.h"

#define VIRTIO_ID_CONSOLE  3
#define CONSOLE_CONFIG_LEN ((u32)sizeof(struct virtio_console_config))
#define CONSOLE_BATCH	   64u	/* buffers before the loop gets its turn */
#define CONSOLE_DRAIN_MS   200u /* at the end, for the last output */

enum { RX, TX, NR_QUEUES };

struct console_cfg {
	char *mode;
};

/* Goes into a snapshot. What the backend holds, typed or printed, is the host's and stays there. */
struct console_state {
	u16 cols, rows;
};

static const struct state_field console_state_fields[] = {
	STATE_NUM(struct console_state, cols, 1),
	STATE_NUM(struct console_state, rows, 2),
	STATE_END,
};

static const struct state_table console_state_table = {
	.name = "console",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct console_state),
	.fields = console_state_fields,
};

struct virtio_console {
	struct virtio_dev vdev; /* first */
	struct chr *chr;	/* owned */
	bool paused;
	struct console_state size; /* of the terminal when it was last known */
	u64 rx_bytes, tx_bytes;
	struct virtq_chain chain; /* in use inside one handler */
};

static struct virtio_console *to_console(struct virtio_dev *vdev)
{
	return container_of(vdev, struct virtio_console, vdev);
}

static void count(u64 *counter, u64 n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* chr_rx_fn, ctx: loop. Input waits in the backend while the driver has no buffers for it. */
static u32 console_receive(void *opaque, const u8 *data, u32 len)
{
	struct virtio_console *con = opaque;
	struct virtq *q = &con->vdev.queues[RX];
	struct virtq_chain *c = &con->chain;
	u32 done = 0;

	device_lock(&con->vdev.dev);
	while (done < len && !con->paused && virtq_pop(q, c) > 0) {
		u32 n = iov_write(chain_in(c), c->nr_in, 0, data + done, len - done);

		virtq_push(q, c, n);
		done += n;
	}
	count(&con->rx_bytes, done);
	virtq_notify(q);
	device_unlock(&con->vdev.dev);
	return done;
}

static void transmit(struct virtio_console *con)
{
	struct virtq *q = &con->vdev.queues[TX];
	struct virtq_chain *c = &con->chain;
	u32 batch;

	for (batch = 0; batch < CONSOLE_BATCH && virtq_pop(q, c) > 0; batch++) {
		for (u16 i = 0; i < c->nr_out; i++)
			chr_write(con->chr, chain_out(c)[i].iov_base, (u32)chain_out(c)[i].iov_len);
		count(&con->tx_bytes, c->out_len);
		virtq_push(q, c, 0);
	}
	virtq_notify(q);
	if (batch == CONSOLE_BATCH)
		virtio_kick_all(&con->vdev);
}

static void console_kick(struct virtio_dev *vdev, u16 q)
{
	struct virtio_console *con = to_console(vdev);

	if (con->paused)
		return;
	if (q == TX)
		transmit(con);
	else
		chr_rx_resume(con->chr);
}

static int console_activate(struct virtio_dev *vdev)
{
	(void)vdev;
	return 0;
}

/* Buffers end within the handlers: none is ever in flight here. */
static bool console_reset(struct virtio_dev *vdev)
{
	(void)vdev;
	return true;
}

/* The terminal's size, now. A restored VM may have none, and its driver believes in one: it keeps that of before. True: it is another. */
static bool look_at_size(struct virtio_console *con)
{
	struct console_state now;

	if (!chr_size(con->chr, &now.cols, &now.rows) || !memcmp(&now, &con->size, sizeof(now)))
		return false;
	con->size = now;
	return true;
}

static void console_config_read(struct virtio_dev *vdev, u32 off, void *data, u32 len)
{
	struct virtio_console *con = to_console(vdev);
	struct virtio_console_config space;

	look_at_size(con);
	space = (struct virtio_console_config){.cols = con->size.cols, .rows = con->size.rows, .max_nr_ports = 1};
	memcpy(data, (const u8 *)&space + off, len);
}

static const struct virtio_ops console_ops = {
	.activate = console_activate,
	.queue_kick = console_kick,
	.reset = console_reset,
	.config_read = console_config_read,
};

static void console_destroy(struct device *dev)
{
	struct virtio_console *con = to_console(to_virtio(dev));

	if (con->chr)
		chr_drain(con->chr, CONSOLE_DRAIN_MS);
	chr_free(con->chr);
	virtio_fini(&con->vdev);
	device_fini(dev);
	free(con);
}

static int console_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
			  struct err *e)
{
	const struct console_cfg *conf = cfg;
	struct virtio_console *con = xzalloc(sizeof(*con));
	int rc;

	device_init(&con->vdev.dev, vm, cls, "console", slot);
	con->chr = chr_new(vm, conf->mode, console_receive, con, e);
	rc = con->chr ? 0 : err_prefix(e, "console");
	if (rc == 0) {
		con->vdev.ops = &console_ops;
		con->vdev.type = VIRTIO_ID_CONSOLE;
		con->vdev.config_len = CONSOLE_CONFIG_LEN;
		if (look_at_size(con) || vm->origin != VM_BOOTED)
			con->vdev.features = BIT(VIRTIO_CONSOLE_F_SIZE);
		rc = virtio_init(&con->vdev, NR_QUEUES, e);
	}
	if (rc < 0) {
		console_destroy(&con->vdev.dev);
		return rc;
	}
	*out = &con->vdev.dev;
	return 0;
}

static void console_quiesce(struct device *dev)
{
	device_lock(dev);
	to_console(to_virtio(dev))->paused = true;
	device_unlock(dev);
}

static void console_resume(struct device *dev)
{
	struct virtio_console *con = to_console(to_virtio(dev));

	device_lock(dev);
	con->paused = false;
	if (con->vdev.restored && look_at_size(con) && virtio_has(&con->vdev, VIRTIO_CONSOLE_F_SIZE))
		virtio_config_changed(&con->vdev);
	device_unlock(dev);
	virtio_resume(&con->vdev);
}

static int console_save(struct device *dev, void *data, struct err *e)
{
	struct virtio_console *con = to_console(to_virtio(dev));

	(void)e;
	device_lock(dev);
	*(struct console_state *)data = con->size;
	device_unlock(dev);
	return 0;
}

static void console_load(struct device *dev, const void *data)
{
	struct virtio_console *con = to_console(to_virtio(dev));

	device_lock(dev);
	con->size = *(const struct console_state *)data;
	device_unlock(dev);
}

static const struct device_state console_device_state = {
	.table = &console_state_table,
	.save = console_save,
	.load = console_load,
};
static const struct device_state *const console_states[] = {&virtio_core_state, &console_device_state, NULL};

static const struct cfg_field console_fields[] = {
	{
		.key = "mode",
		.type = CFG_STR,
		.offset = offsetof(struct console_cfg, mode),
		.required = true,
		.min = 1,
		.max = 4095,
		.accept = chr_spec_ok,
		.expected = "stdio, pty, unix:PATH, file:PATH or null",
		.extension = true,
		.help = "where the console's bytes go to and come from",
	},
};

static const struct cfg_table console_table = {
	.name = "console",
	.help = "a virtio console (hvc0 of a Linux guest), many times faster than the serial port",
	.size = sizeof(struct console_cfg),
	.fields = console_fields,
	.nr_fields = ARRAY_SIZE(console_fields),
};

static const struct cfg_flag console_flag = {
	.name = "console",
	.positional = "mode",
	.usage = "stdio|pty|unix:PATH|file:PATH|null",
	.help = "add a virtio console (console=hvc0)",
};

static const struct counter_desc console_counters[] = {
	{"rx_bytes", offsetof(struct virtio_console, rx_bytes)},
	{"tx_bytes", offsetof(struct virtio_console, tx_bytes)},
	{NULL, 0},
};

const struct device_class virtio_console_class = {
	.name = "virtio-console",
	.section = "console",
	.config = &console_table,
	.flag = &console_flag,
	.mmio_slot = true,
	.metrics_group = "console",
	.counters = console_counters,
	.acpi_hid = "LNRO0005",
	.create = console_create,
	.destroy = console_destroy,
	.quiesce = console_quiesce,
	.resume = console_resume,
	.states = console_states,
};
