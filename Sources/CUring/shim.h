// liburing, and the inline parts of it that the Swift importer cannot express.
#ifndef PVDISK_CURING_H
#define PVDISK_CURING_H
#include <liburing.h>
#endif
