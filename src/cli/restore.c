/* restore.c: see restore.h. */
#include "cli/restore.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "migration/dest.h"
#include "migration/snapshot.h"

const char *const restore_flag_names[] = {
	"restore", "paused", "eager", "clock-realtime", "keep-generation-id", "working-set", "record-working-set", "receive", NULL};

bool restore_take_flag(struct restore_flags *f, struct args *a, int *r, struct err *e)
{
	const char **text = !strcmp(a->name, "restore")		     ? &f->dir
			    : !strcmp(a->name, "receive")	     ? &f->receive
			    : !strcmp(a->name, "working-set")	     ? &f->working_set
			    : !strcmp(a->name, "record-working-set") ? &f->record
								     : NULL;
	bool *on = !strcmp(a->name, "paused")		    ? &f->paused
		   : !strcmp(a->name, "eager")		    ? &f->eager
		   : !strcmp(a->name, "clock-realtime")	    ? &f->clock_realtime
		   : !strcmp(a->name, "keep-generation-id") ? &f->keep_generation
							    : NULL;

	if (text)
		*r = (*text = args_value(a, e)) ? 0 : -EINVAL;
	else if (on)
		*r = args_no_value(a, e);
	if (on)
		*on = true;
	return text || on;
}

bool restore_wanted(const struct restore_flags *f)
{
	return f->working_set || f->record || f->paused || f->eager || f->clock_realtime || f->keep_generation;
}

void restore_flags_help(FILE *out)
{
	fputs("\nFrom a snapshot (docs/snapshots.md):\n"
	      "  --restore DIR           The VM whose snapshot is in DIR/state and DIR/memory, in place of CONFIG.json; then also\n"
	      "  --net ID=DEV            another tap interface for this network interface; may be repeated, as --drive\n"
	      "  --drive ID=PATH         another file for this drive\n"
	      "  --vsock PATH            another socket for vsock\n"
	      "  --paused                It stays paused until husk ctl SOCKET resume\n"
	      "  --eager                 Reads all memory first, not when it is touched\n"
	      "  --clock-realtime        The guest's clocks jump over the time that it was on disk\n"
	      "  --keep-generation-id    No new VM generation ID: this VM alone goes on from the snapshot\n"
	      "  --record-working-set FILE  Writes down which pages it touches first\n"
	      "  --working-set FILE      Reads these ahead\n",
	      out);
}

struct overrides {
	struct snapshot_override *nets, *drives; /* owned, ids too */
	u32 nr_nets, nr_drives;
	const char *vsock;
	bool track_dirty;
};

static void free_overrides(struct overrides *o)
{
	for (u32 i = 0; i < o->nr_nets; i++)
		free((char *)o->nets[i].id);
	for (u32 i = 0; i < o->nr_drives; i++)
		free((char *)o->drives[i].id);
	free(o->nets);
	free(o->drives);
}

/* "ID=VALUE" */
static int take_pair(const char *flag, const char *text, struct snapshot_override **list, u32 *nr, struct err *e)
{
	const char *equals = strchr(text, '=');
	struct snapshot_override *more;

	if (!equals || equals == text || !equals[1])
		return err_set(e, -EINVAL, "--%s %s: with --restore it is ID=%s, as in the snapshot (husk snapshot info DIR)", flag, text,
			       !strcmp(flag, "net") ? "DEV" : "PATH");
	more = realloc(*list, (*nr + 1) * sizeof(*more));
	ASSERT(more); /* at most argv's length of them */
	more[(*nr)++] = (struct snapshot_override){xasprintf("%.*s", (int)(equals - text), text), equals + 1};
	*list = more;
	return 0;
}

static bool is_own(const struct config_flag *flag)
{
	return snapshot_is_own_key(flag->cls ? flag->cls->section : flag->section ? flag->section->key : flag->name);
}

/* One flag of the configuration: an override, the process's own, or refused. */
static int take_flag(const struct invocation_flag *f, struct overrides *o, struct json_object *own, struct err *e)
{
	if (!strcmp(f->flag.name, "net"))
		return take_pair("net", f->value, &o->nets, &o->nr_nets, e);
	if (!strcmp(f->flag.name, "drive") || !strcmp(f->flag.name, "pmem"))
		return take_pair(f->flag.name, f->value, &o->drives, &o->nr_drives, e);
	if (!strcmp(f->flag.name, "vsock"))
		o->vsock = f->value;
	else if (!strcmp(f->flag.name, "track-dirty"))
		o->track_dirty = true;
	else if (is_own(&f->flag))
		return config_flag_apply(&f->flag, f->value, own, e);
	else
		return err_set(e, -EINVAL, "--%s does not go with --restore or --receive: what comes says what the VM is", f->flag.name);
	return 0;
}

static int open_with(const struct invocation *inv, const struct overrides *o, struct snapshot **out, struct err *e)
{
	auto_free char *state = xasprintf("%s/state", inv->restore.dir), *memory = xasprintf("%s/memory", inv->restore.dir);
	struct snapshot_load req = {
		.state_path = state,
		.mem_path = memory,
		.backend = inv->restore.eager ? SNAPSHOT_EAGER : SNAPSHOT_FILE,
		.resume = !inv->restore.paused,
		.track_dirty = o->track_dirty,
		.clock_realtime = inv->restore.clock_realtime,
		.keep_generation = inv->restore.keep_generation,
		.nets = o->nets,
		.drives = o->drives,
		.nr_nets = o->nr_nets,
		.nr_drives = o->nr_drives,
		.vsock_path = o->vsock,
		.working_set_path = inv->restore.record ? inv->restore.record : inv->restore.working_set,
		.working_set = inv->restore.record	  ? WORKING_SET_RECORD
			       : inv->restore.working_set ? WORKING_SET_PREFETCH
							  : WORKING_SET_NONE,
	};

	if (inv->restore.record && inv->restore.working_set)
		return err_set(e, -EINVAL, "a working set is recorded or read ahead, not both: --record-working-set or --working-set");
	return snapshot_open(out, &req, e);
}

static int take_flags(const struct invocation *inv, struct overrides *o, struct json_object *own, struct err *e)
{
	int r = 0;

	if (inv->config_path)
		r = err_set(e, -EINVAL, "\"%s\" does not go with --restore or --receive: what comes says what the VM is", inv->config_path);
	for (u32 i = 0; r == 0 && i < inv->nr_flags; i++)
		r = take_flag(&inv->flags[i], o, own, e);
	return r;
}

int restore_receive(const struct invocation *inv, struct log *log, struct dest **out, struct json_object **own, struct err *e)
{
	const struct restore_flags *f = &inv->restore;
	struct overrides o = {0};
	int r;

	*own = json_object_new_object();
	r = take_flags(inv, &o, *own, e);
	if (r == 0 && (f->dir || f->working_set || f->record || f->eager || f->clock_realtime || f->keep_generation))
		r = err_set(e, -EINVAL, "with --receive there can be --paused, and flags of the process; the VM comes from the other husk");
	if (r == 0) {
		struct dest_params p = {
			.address = f->receive,
			.tls = inv->tls_identity,
			.paused = f->paused,
			.nets = o.nets,
			.drives = o.drives,
			.nr_nets = o.nr_nets,
			.nr_drives = o.nr_drives,
			.vsock_path = o.vsock,
		};

		r = dest_listen(out, &p, log, e);
	}
	free_overrides(&o);
	if (r < 0)
		json_object_put(*own);
	return r;
}

int restore_open(const struct invocation *inv, struct snapshot **out, struct json_object **doc, struct err *e)
{
	struct json_object *own = json_object_new_object();
	struct overrides o = {0};
	int r = take_flags(inv, &o, own, e);

	if (r == 0)
		r = open_with(inv, &o, out, e);
	if (r == 0)
		*doc = snapshot_configure(*out, own);
	free_overrides(&o);
	json_object_put(own);
	return r;
}
