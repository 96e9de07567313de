/* cm.h: cmocka with the headers it needs first. */
#ifndef HUSK_TEST_CM_H
#define HUSK_TEST_CM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
