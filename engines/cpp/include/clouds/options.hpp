// How a bundle is to run.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "clouds/api.h"

namespace clouds {

struct Options {
  // openvino, onnxruntime, tensorrt or tensorrt-rtx; empty: the first one that was built in.
  std::string backend;
  // cpu, cuda or cuda:N, or what OpenVINO calls another device. Engines run on cuda:0 where nothing else is said.
  std::string device = "cpu";
  // Threads that one inference computes with; 0 leaves it to the backend.
  int threads = 0;
  // fp32, or bf16 where the backend can (OpenVINO); never chosen silently.
  std::string precision = "fp32";
  // Of a Segmenter: images of nearly every inference, which OpenVINO plans for. Another number is planned for when it
  // comes; 0 plans for any.
  int batch = 1;
  // A vocabulary.npz with other classes than the bundle's own; text head only.
  std::string vocabulary;
  // Whether every file is compared with its sha256; sizes are compared always.
  bool verify = true;
  // Most inferences at the same time, each with memory of its own; 0 sets no limit. A caller beyond it waits.
  std::size_t requests = 0;
  // A cudaStream_t that ONNX Runtime is to run on, where `device` is a GPU; it has to outlive the object. Engines take
  // theirs with each call of `segment_on_device`.
  void* cuda_stream = nullptr;
  // Of `submit`: threads that take jobs from the queue, and jobs that may wait in it before `submit` blocks.
  std::size_t workers = 2;
  std::size_t queue = 4;
};

// The backends that this build of the library has.
CLOUDS_API std::vector<std::string> backends();

}  // namespace clouds
