// Promptable segmentation of images of any size, from a SAM's bundle that `clouds-deploy export` wrote.
//
//   clouds::Sam sam("bundles/sam");
//   const auto seen = sam.embed({pixels, height, width});
//   const auto found = sam.prompt(seen, {{{320, 240, 1}}});             // one prompt of one point
//   sam.mask(seen, found[0].logits[found[0].best()], {mask, height, width});
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "clouds/api.h"
#include "clouds/error.hpp"
#include "clouds/image.hpp"
#include "clouds/options.hpp"

namespace clouds {

struct SamInfo {
  std::string path;
  std::string name;
  int image_size = 0;  // side of the square that the encoder sees
  int mask_size = 0;   // side of the logits' square
  std::string backend;
  std::string device;
  std::vector<std::string> warnings;  // what makes it doubtful that an engine is right for this machine
};

// In pixels of the image as it was given, from its upper left corner. Labels: 1 foreground, 0 background, 2 and 3 the
// upper left and the lower right corner of a box, -1 no point.
struct SamPoint {
  double x = 0;
  double y = 0;
  int label = 1;
};
using SamPrompt = std::vector<SamPoint>;

// Three proposals for a prompt, from small to whole.
struct SamProposals {
  std::array<std::vector<float>, 3> logits;  // mask_size x mask_size each
  std::array<float, 3> iou{};                // as the model predicts it
  std::size_t best() const { return iou[0] >= iou[1] ? (iou[0] >= iou[2] ? 0 : 2) : (iou[1] >= iou[2] ? 1 : 2); }
};

// An image's embedding.
struct SamEmbedding {
  std::vector<float> features;  // (C, h, w)
  int height = 0;               // of the image as it was given
  int width = 0;
};

// A SAM on one backend. Any number of threads may use one object. Of `Options`, workers and queue are not used.
class CLOUDS_API Sam {
 public:
  explicit Sam(const std::string& bundle, const Options& options = {});  // throws Error
  ~Sam();
  Sam(Sam&&) noexcept;
  Sam& operator=(Sam&&) noexcept;

  const SamInfo& info() const;

  SamEmbedding embed(const ImageView& image) const;

  // Many prompts in few inferences. Prompts may differ in their number of points.
  std::vector<SamProposals> prompt(const SamEmbedding& seen, const std::vector<SamPrompt>& prompts) const;

  // Brings logits to the image's size and cuts them at zero: 1 inside, 0 outside.
  void mask(const SamEmbedding& seen, const std::vector<float>& logits, const MapView& out) const;

  struct Body;  // the implementation; not for callers

 private:
  std::unique_ptr<Body> body_;
};

}  // namespace clouds
