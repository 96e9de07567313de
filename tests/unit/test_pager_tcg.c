/* test_pager_tcg.c: guests under the software accelerator whose memory comes page by page. */
#define RIG_ACCEL tcg_accel_ops
#include "lazy_guest.h"
