// The implementation of the segmenter, on any graph: tests pass one of their own.
#pragma once

#include <memory>
#include <vector>

#include "backend.hpp"
#include "bundle.hpp"
#include "clouds/segmenter.hpp"
#include "letterbox.hpp"
#include "pool.hpp"
#include "queue.hpp"

namespace clouds {

struct Segmenter::Body {
  Body(SegmenterBundle bundle, std::unique_ptr<Graph> graph, std::unique_ptr<Vocabulary> vocabulary,
       const Options& options);

  void segment(const ImageView* images, const MapView* labels, const MapView* trusts, std::size_t count);
  void segment_on_device(const std::uint8_t* images, std::uint8_t* labels, std::size_t count, void* stream,
                         float* scores);
  void check(const ImageView& image, const MapView& labels, const MapView& trust) const;

  SegmenterBundle bundle;
  std::unique_ptr<Graph> graph;
  std::unique_ptr<Vocabulary> vocabulary;
  SegmenterInfo info;

  // What one inference needs beside the caller's pixels.
  struct Place {
    std::unique_ptr<Request> request;
    std::vector<Input> inputs;
    std::vector<Output> outputs;
    std::vector<std::uint8_t> image, packed, labels, trust, share;
    std::vector<float> scores, sums;
    Resizer image_resizer, map_resizer, trust_resizer;
  };
  Pool<Place> places;
  Queue queue;  // last: it ends first

 private:
  std::unique_ptr<Place> make_place();
  void write_trust(Place& place, std::size_t index, const Letterbox& box, const MapView& out);

  Shape scores_shape_;  // of one image: classes, rows, columns
};

// Opens what `Segmenter` runs on; see there.
std::unique_ptr<Segmenter::Body> open_body(const std::string& bundle, const Options& options);

}  // namespace clouds
