// What running and building engines share: TensorRT's words, CUDA's errors, the current device.
#pragma once

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <mutex>
#include <string>

#include "backend.hpp"
#include "clouds/error.hpp"
#include "tensor.hpp"

namespace clouds {

inline void require(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw Error(std::string("CUDA cannot ") + what + ": " + cudaGetErrorString(status), "check the GPU and its memory");
  }
}

// Keeps what TensorRT said last: its calls give no reason.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard lock(mutex_);
    try {
      last_ = text;
    } catch (...) {
    }
  }
  std::string last() {
    const std::lock_guard lock(mutex_);
    return last_.empty() ? "it gave no reason" : first_line(last_);
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

inline nvinfer1::Dims dims_of(const Shape& shape) {
  nvinfer1::Dims out{};
  out.nbDims = static_cast<std::int32_t>(shape.size());  // at most 8: documents.cpp
  std::copy(shape.begin(), shape.end(), out.d);
  return out;
}

// Makes a GPU the thread's current one, and gives the caller's back at the end.
class OnDevice {
 public:
  explicit OnDevice(int index) : index_(index) {
    require(cudaGetDevice(&before_), "name its current device");
    if (before_ != index_) require(cudaSetDevice(index_), "use the device");
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    if (before_ != index_) cudaSetDevice(before_);
  }

 private:
  int index_, before_ = 0;
};

}  // namespace clouds
