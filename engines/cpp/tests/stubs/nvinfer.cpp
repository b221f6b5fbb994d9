// A stand-in for libnvinfer: it has the version of its headers, and makes nothing.
#include <NvInfer.h>

extern "C" {
void* createInferRuntime_INTERNAL(void*, int32_t) noexcept { return nullptr; }
void* createInferBuilder_INTERNAL(void*, int32_t) noexcept { return nullptr; }
int32_t getInferLibVersion() noexcept { return NV_TENSORRT_VERSION; }
int32_t getInferLibMajorVersion() noexcept { return NV_TENSORRT_MAJOR; }
int32_t getInferLibMinorVersion() noexcept { return NV_TENSORRT_MINOR; }
int32_t getInferLibPatchVersion() noexcept { return NV_TENSORRT_PATCH; }
int32_t getInferLibBuildVersion() noexcept { return NV_TENSORRT_BUILD; }
}
