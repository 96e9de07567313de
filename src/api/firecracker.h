/* firecracker.h: what husk is compatible with, and sentences of Firecracker's API that its clients and their tests compare. */
#ifndef HUSK_API_FIRECRACKER_H
#define HUSK_API_FIRECRACKER_H

#define FIRECRACKER_VERSION "1.17.0" /* whose API, command line and configuration file husk takes */

#define FC_NOT_AFTER_START  "The requested operation is not supported after starting the microVM."
#define FC_NOT_BEFORE_START "The requested operation is not supported before starting the microVM."
#define FC_BAD_JSON	    "An error occurred when deserializing the json body of a request: "
#define FC_LOAD_ERROR	    "Load snapshot error"

#endif
