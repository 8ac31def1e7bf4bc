/* One macro: says where a test of this directory failed. */
#ifndef CHECK_H
#define CHECK_H
#include <stdio.h>
#include <stdlib.h>
#include "vgpu_perception_ext.h"

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            char why_[256];                                                                       \
            vgpux_last_error(why_, sizeof why_);                                                  \
            fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #condition, why_); \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

#endif
