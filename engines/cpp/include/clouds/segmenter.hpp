// Labels for images of any size, from a bundle that `clouds-deploy export` wrote.
//
//   clouds::Segmenter segmenter("bundles/a");
//   std::vector<std::uint8_t> labels(height * width);
//   segmenter.segment({pixels, height, width}, {labels.data(), height, width});
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "clouds/api.h"
#include "clouds/error.hpp"
#include "clouds/image.hpp"
#include "clouds/options.hpp"

namespace clouds {

// A bundle's facts, and the backend and device that it runs on.
struct SegmenterInfo {
  std::string path;
  int height = 0;  // of the graph; images of other sizes are letterboxed
  int width = 0;
  std::vector<std::string> classes;                  // by label
  std::vector<std::array<std::uint8_t, 3>> palette;  // RGB by label; empty for a vocabulary of one's own
  std::array<std::uint8_t, 3> mean_color{};          // RGB that letterboxes are filled with
  std::string precision;                             // fp32 or fp16
  std::string backbone_weights;
  bool random_weights = false;  // a dry run, whose labels mean nothing
  bool scores = false;          // whether `Segmenter::segment` can give confidences
  std::string backend;
  std::string device;
  std::vector<std::string> warnings;  // what makes it doubtful that an engine is right for this machine
};

// The result of `Segmenter::self_test` on the bundle's own images.
struct SelfTest {
  int images = 0;
  double agreement = 0;  // share of pixels, 0..1, with PyTorch's label
  double limit = 0;      // what it has to reach
  bool passed() const { return agreement >= limit; }
};

// A bundle on one backend. Any number of threads may use one object.
class CLOUDS_API Segmenter {
 public:
  // Opens and checks a bundle; throws `Error` when it does not hold or cannot run here.
  explicit Segmenter(const std::string& bundle, const Options& options = {});
  ~Segmenter();  // waits for what was submitted
  Segmenter(Segmenter&&) noexcept;
  Segmenter& operator=(Segmenter&&) noexcept;

  const SegmenterInfo& info() const;

  // Labels one image. `trust`, where given, gets 255 times the best class's share of all scores; the bundle has
  // to be exported with --scores for it. No pixel is copied when image and labels have the graph's size and are
  // packed RGB. Throws `Error`.
  void segment(const ImageView& image, const MapView& labels, const MapView& trust = {}) const;

  // Labels images together in one inference. Images that lie one behind the other in memory, and so do their
  // labels, are not copied under the conditions above.
  void segment(const std::vector<ImageView>& images, const std::vector<MapView>& labels,
               const std::vector<MapView>& trusts = {}) const;

  // Labels images that lie on the GPU and leaves the labels there: nothing is copied or resized. `images` are
  // (count, height, width, 3) uint8 RGB and `labels` (count, height, width) uint8, packed, of the graph's size, in memory
  // of the device that this object runs on; `scores`, where given, gets the graph's own (count, classes, rows, columns)
  // float32. The work is queued on `stream`, a cudaStream_t (null: CUDA's default stream), and may not be done when the
  // call returns: wait for the stream. Throws `Error`, also where the backend runs on no GPU.
  void segment_on_device(const std::uint8_t* images, std::uint8_t* labels, std::size_t count, void* stream,
                         float* scores = nullptr) const;

  // Queues one image and returns; blocks while the queue is full. The pixels must stay until the future is ready.
  std::future<void> submit(const ImageView& image, const MapView& labels, const MapView& trust = {}) const;

  // The same, with a call at the end: of a worker's thread, with null or what went wrong; it must not throw.
  using Done = std::function<void(std::exception_ptr)>;
  void submit(const ImageView& image, const MapView& labels, const MapView& trust, Done done) const;

  // Returns false, and does nothing, where `submit` would block.
  bool try_submit(const ImageView& image, const MapView& labels, const MapView& trust, Done done) const;

  // Labels the images that were packed with the bundle, and compares.
  SelfTest self_test() const;

  struct Body;  // the implementation; not for callers

 private:
  std::unique_ptr<Body> body_;
};

}  // namespace clouds
