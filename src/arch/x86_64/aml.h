/*
 * aml.h: writes ACPI machine language (ACPI 6.4 §20) into a buf. Blocks are opened and closed; their lengths are patched at the close:
 *
 *   size_t dev = aml_device(b, "COM1");
 *   aml_name_string(b, "_HID", "PNP0501");
 *   aml_close(b, dev);
 */
#ifndef HUSK_AML_H
#define HUSK_AML_H

#include "vmm/base/buf.h"

/* Each opens a block and returns the mark that aml_close takes. Names are up to 4 characters, or a path: "\\_SB_", "\\_SB.PWRB". */
size_t aml_scope(struct buf *b, const char *name);
size_t aml_device(struct buf *b, const char *name);
size_t aml_method(struct buf *b, const char *name, u32 nr_args);
/* If (Arg<arg> == value) { ... } */
size_t aml_if_arg_equals(struct buf *b, u32 arg, u64 value);
/* Name (<name>, Package () { ... }) with nr elements */
size_t aml_name_package(struct buf *b, const char *name, u8 nr);
void aml_close(struct buf *b, size_t mark);

void aml_int(struct buf *b, u64 v);
void aml_string(struct buf *b, const char *s);
void aml_name_int(struct buf *b, const char *name, u64 v);
void aml_name_string(struct buf *b, const char *name, const char *s);
/* Name (<name>, EisaId ("PNP0C0C")) */
void aml_name_eisaid(struct buf *b, const char *name, const char *id);
/* Notify (<name>, value) */
void aml_notify(struct buf *b, const char *name, u64 value);

/* Name (_CRS, ResourceTemplate () { ... }): resources between the two calls (ACPI 6.4 §6.4). */
size_t aml_crs_open(struct buf *b);
void aml_crs_close(struct buf *b, size_t mark);
void aml_res_mem32(struct buf *b, u32 base, u32 len);
void aml_res_io(struct buf *b, u16 base, u8 len);
/* An edge-triggered, active-high interrupt; shared: other devices may be on the line. */
void aml_res_irq_edge(struct buf *b, u32 gsi, bool shared);

#endif
