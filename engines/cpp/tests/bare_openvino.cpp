// The bare OpenVINO call that benchmarks/cpp_latency.py compares with: one request, its own tensors, nothing else.
#include <cstring>
#include <openvino/openvino.hpp>

namespace {

struct Bare {
  ov::Core core;
  ov::CompiledModel model;
  ov::InferRequest request;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void* bare_open(const char* graph, const unsigned char* image,
                                                                  std::size_t height, std::size_t width, int threads) {
  auto* bare = new Bare;
  ov::AnyMap settings{{"INFERENCE_PRECISION_HINT", "f32"}, {"PERFORMANCE_HINT", "LATENCY"}};
  if (threads > 0) settings["INFERENCE_NUM_THREADS"] = threads;
  bare->model = bare->core.compile_model(bare->core.read_model(graph), "CPU", settings);
  bare->request = bare->model.create_infer_request();
  ov::Tensor input(ov::element::u8, {1, height, width, 3});
  std::memcpy(input.data(), image, input.get_byte_size());
  bare->request.set_tensor("image", input);
  return bare;
}

extern "C" __attribute__((visibility("default"))) void bare_run(void* bare) {
  static_cast<Bare*>(bare)->request.infer();
}

extern "C" __attribute__((visibility("default"))) void bare_close(void* bare) { delete static_cast<Bare*>(bare); }
