/* A stand-in for NVIDIA's management library, by which Ray counts GPUs: it lists as many as $STAND_IN_GPUS says. */
#include <stdlib.h>
#include <string.h>

static unsigned number(void) {
    const char *given = getenv("STAND_IN_GPUS");
    return given ? (unsigned)atoi(given) : 0;
}

int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = number();
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (index >= number()) return 2; /* NVML_ERROR_INVALID_ARGUMENT */
    *device = (void *)(size_t)(index + 1);
    return 0;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    strncpy(name, "NVIDIA H100 80GB HBM3", length);
    return 0;
}
