/* A driver without a device behind it: what a probe asks before TensorRT, answered as the environment says. */
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

int cuInit(unsigned flags) { (void)flags; return number("FAKE_CUDA_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = number("FAKE_CUDA_VERSION", 12060); return 0; }
int cuDeviceGetCount(int *count) { *count = number("FAKE_CUDA_DEVICES", 1); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    (void)device;
    strncpy(name, "Fake GPU", length);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = number("FAKE_CUDA_SM", 86);
    (void)device;
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = (void *)1; return 0; }
int cuCtxSetCurrent(void *context) { (void)context; return 0; }
