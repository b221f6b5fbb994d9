// A stand-in for libnvonnxparser: it parses nothing.
#include <NvOnnxParser.h>

extern "C" {
void* createNvOnnxParser_INTERNAL(void*, void*, int32_t) noexcept { return nullptr; }
int32_t getNvOnnxParserVersion() noexcept { return 0; }
}
