/* A stand-in for the NVIDIA driver's libcuda.so.1 where there is no driver.
 *
 *     gcc -shared -fPIC -Os -Wl,-soname,libcuda.so.1 -o libcuda-stub.so stub.c
 *
 * MXNet's CUDA build is linked against libcuda.so.1 and cannot even be imported without it. This library lets
 * it load and compute on the CPU: it has the functions that MXNet names, and those that the CUDA runtime and
 * gluonseg ask for first, and each answers "no device". gluonseg/machine/cuda_library.py loads it, and only after the
 * search for a real driver has failed; it must not lie where the dynamic loader finds it by itself.
 */

#include <stddef.h>

typedef int CUresult;

#define CUDA_SUCCESS 0
#define CUDA_ERROR_INVALID_VALUE 1
#define CUDA_ERROR_NO_DEVICE 100

/* No function looks at its arguments, so that their types need no header of NVIDIA's. */
#define NO_DEVICE(name) CUresult name(void) { return CUDA_ERROR_NO_DEVICE; }

/* Tells this library from a driver. */
const int gluonseg_libcuda_stub = 1;

/* What MXNet 1.9.1's libmxnet.so names. */
NO_DEVICE(cuDeviceGet)
NO_DEVICE(cuDevicePrimaryCtxRetain)
NO_DEVICE(cuGraphKernelNodeGetParams)
NO_DEVICE(cuGraphNodeGetType)
NO_DEVICE(cuLaunchKernel)
NO_DEVICE(cuModuleGetFunction)
NO_DEVICE(cuModuleLoadData)
NO_DEVICE(cuModuleLoadDataEx)
NO_DEVICE(cuModuleUnload)

/* What a program asks before anything else. */
NO_DEVICE(cuInit)
NO_DEVICE(cuDeviceGetAttribute)
NO_DEVICE(cuDeviceGetName)

CUresult cuDeviceGetCount(int *count)
{
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *count = 0;
    return CUDA_ERROR_NO_DEVICE;
}

/* A real driver answers this one without any device; 0 is what the CUDA runtime says where no driver is. */
CUresult cuDriverGetVersion(int *version)
{
    if (version == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *version = 0;
    return CUDA_SUCCESS;
}

/* Both describe errors, and have to work for the one that the others return. Like the driver's, they give a
 * null pointer for a number that they do not know. */
static CUresult describe(CUresult error, const char **text, const char *success, const char *no_device)
{
    if (text == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *text = error == CUDA_SUCCESS ? success : error == CUDA_ERROR_NO_DEVICE ? no_device : NULL;
    return *text == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text)
{
    return describe(error, text, "no error", "no NVIDIA driver is installed here");
}

CUresult cuGetErrorName(CUresult error, const char **text)
{
    return describe(error, text, "CUDA_SUCCESS", "CUDA_ERROR_NO_DEVICE");
}
