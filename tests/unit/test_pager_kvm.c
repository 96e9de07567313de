/* test_pager_kvm.c: guests under KVM whose memory comes page by page. */
#include "lazy_guest.h"
