/* A stand-in for NVIDIA's management library, by which Ray counts GPUs: it lists as many as $STAND_IN_GPUS says. If
   $STAND_IN_INIT or $STAND_IN_COUNT has the number of an error of NVML, the start or the count fails with it. */
#include <stdlib.h>
#include <string.h>

static unsigned number(void) {
    const char *given = getenv("STAND_IN_GPUS");
    return given ? (unsigned)atoi(given) : 0;
}

static int fault(const char *name) {
    const char *given = getenv(name);
    return given ? atoi(given) : 0;
}

int nvmlInitWithFlags(unsigned flags) { return fault("STAND_IN_INIT"); }
int nvmlInit_v2(void) { return fault("STAND_IN_INIT"); }
int nvmlShutdown(void) { return 0; }

const char *nvmlErrorString(int status) {
    switch (status) {
        case 15: return "GPU is lost";
        case 18: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = number();
    return fault("STAND_IN_COUNT");
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
