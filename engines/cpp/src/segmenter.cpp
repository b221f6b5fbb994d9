#include "clouds/segmenter.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "machine.hpp"
#include "segmenter_body.hpp"

namespace clouds {
namespace {

const TensorSpec* named(const std::vector<TensorSpec>& specs, const std::string& name) {
  for (const TensorSpec& spec : specs) {
    if (spec.name == name) return &spec;
  }
  return nullptr;
}

std::unique_ptr<Vocabulary> choose_vocabulary(const SegmenterBundle& bundle, const Options& options) {
  const TensorSpec* wanted = named(bundle.facts.inputs, kVocabularyInput);
  if (wanted == nullptr) {
    if (options.vocabulary.empty()) return nullptr;
    throw Error(bundle.path.string() + " has the linear head, whose classes are fixed",
                "export a run with model.head=text");
  }
  std::filesystem::path file = bundle.path / kVocabulary;
  if (!options.vocabulary.empty()) file = std::filesystem::u8path(options.vocabulary);
  auto chosen = std::make_unique<Vocabulary>(read_vocabulary(file));
  if (chosen->shape[2] != wanted->shape[2]) {
    throw Error(bundle.path.string() + " takes vectors of " + std::to_string(wanted->shape[2]) +
                    " numbers, the vocabulary's have " + std::to_string(chosen->shape[2]),
                "embed the names with the text tower of the run that was exported");
  }
  return chosen;
}

SegmenterInfo describe(const SegmenterBundle& bundle, const Vocabulary* vocabulary, const Options& options,
                       const std::string& device) {
  const SegmenterFacts& facts = bundle.facts;
  SegmenterInfo info;
  info.path = bundle.path.string();
  info.height = facts.height;
  info.width = facts.width;
  info.classes = vocabulary != nullptr ? vocabulary->names : facts.classes;
  if (options.vocabulary.empty()) info.palette = facts.palette;
  info.mean_color = facts.mean_color;
  info.precision = facts.precision;
  info.backbone_weights = facts.backbone_weights;
  info.random_weights = facts.random_weights;
  info.scores = facts.outputs.size() > 1;
  info.backend = options.backend;
  info.device = device;
  return info;
}

// Whether views lie one behind the other, packed, each of `size` bytes: then they are one array already.
template <typename View, typename Packed>
bool in_a_row(const View* views, std::size_t count, std::ptrdiff_t size, Packed packed) {
  for (std::size_t i = 0; i < count; ++i) {
    if (!packed(views[i]) || views[i].data != views[0].data + static_cast<std::ptrdiff_t>(i) * size) return false;
  }
  return true;
}

}  // namespace

std::unique_ptr<Segmenter::Body> open_body(const std::string& bundle, const Options& options) {
  const Options chosen = checked(options);
  SegmenterBundle opened = open_segmenter_bundle(std::filesystem::u8path(bundle), options.verify);
  std::unique_ptr<Vocabulary> vocabulary = choose_vocabulary(opened, options);
  GraphFile file{opened.path / kGraph, opened.facts.inputs, opened.facts.outputs, options.batch};
  use_engine(file, opened.facts.engines, "", opened.path, chosen);
  auto graph = open_graph(chosen.backend, file, chosen);
  auto body = std::make_unique<Segmenter::Body>(std::move(opened), std::move(graph), std::move(vocabulary), chosen);
  body->info.warnings = std::move(file.warnings);
  return body;
}

Segmenter::Body::Body(SegmenterBundle opened, std::unique_ptr<Graph> loaded, std::unique_ptr<Vocabulary> words,
                      const Options& options)
    : bundle(std::move(opened)),
      graph(std::move(loaded)),
      vocabulary(std::move(words)),
      info(describe(bundle, vocabulary.get(), options, graph->device())),
      places([this] { return make_place(); }, options.requests),
      queue(options.workers, options.queue) {
  if (info.scores) {
    const Shape& shape = bundle.facts.outputs[1].shape;
    scores_shape_ = {static_cast<std::int64_t>(info.classes.size()), shape[2], shape[3]};
    if (shape[1] > 0) scores_shape_[0] = shape[1];
  }
}

std::unique_ptr<Segmenter::Body::Place> Segmenter::Body::make_place() {
  auto place = std::make_unique<Place>();
  place->request = graph->request();
  place->inputs.resize(bundle.facts.inputs.size());
  place->outputs.resize(bundle.facts.outputs.size());
  for (std::size_t i = 1; i < place->inputs.size(); ++i) {
    const bool vectors = bundle.facts.inputs[i].name == kVocabularyInput;
    place->inputs[i] = vectors ? Input{vocabulary->vectors.data(), vocabulary->shape}
                               : Input{vocabulary->share.data(), {vocabulary->shape[0]}};
  }
  return place;
}

void Segmenter::Body::check(const ImageView& image, const MapView& labels, const MapView& trust) const {
  check_image(image);
  check_map(labels, image, "labels");
  if (trust.data == nullptr) return;
  if (!info.scores) throw Error(info.path + " gives labels only", "export it with --scores, or give the run");
  check_map(trust, image, "trusts");
}

void Segmenter::Body::segment(const ImageView* images, const MapView* labels, const MapView* trusts,
                              std::size_t count) {
  if (count == 0) return;
  for (std::size_t i = 0; i < count; ++i) check(images[i], labels[i], trusts != nullptr ? trusts[i] : MapView{});
  const int height = info.height, width = info.width;
  const std::size_t pixels = static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  const auto batch = static_cast<std::int64_t>(count);

  Pool<Place>::Loan loan = places.lend();
  Place& place = *loan;
  const bool as_given = in_a_row(images, count, static_cast<std::ptrdiff_t>(pixels * 3), [&](const ImageView& view) {
    return view.height == height && view.width == width && view.format == PixelFormat::rgb &&
           (view.row_stride == 0 || view.row_stride == std::ptrdiff_t{width} * 3);
  });
  if (!as_given) place.image.resize(count * pixels * 3);
  for (std::size_t i = 0; i < count && !as_given; ++i) {
    fit(images[i], letterbox_of(images[i].height, images[i].width, height, width), height, width, info.mean_color,
        place.image.data() + i * pixels * 3, place.image_resizer, place.packed);
  }
  const bool straight = in_a_row(labels, count, static_cast<std::ptrdiff_t>(pixels), [&](const MapView& view) {
    return view.height == height && view.width == width && stride_of(view) == width;
  });
  if (!straight) place.labels.resize(count * pixels);
  place.inputs[0] = {as_given ? images[0].data : place.image.data(), {batch, height, width, 3}};
  place.outputs[0] = {straight ? labels[0].data : place.labels.data(), {batch, height, width}};
  if (info.scores) {
    place.scores.resize(count * static_cast<std::size_t>(elements(scores_shape_)));
    place.outputs[1] = {place.scores.data(), {batch, scores_shape_[0], scores_shape_[1], scores_shape_[2]}};
  }
  place.request->run(place.inputs, place.outputs, {});
  for (std::size_t i = 0; i < count; ++i) {
    const Letterbox box = letterbox_of(images[i].height, images[i].width, height, width);
    if (!straight) restore(place.labels.data() + i * pixels, width, box, labels[i], place.map_resizer);
    if (trusts != nullptr && trusts[i].data != nullptr) write_trust(place, i, box, trusts[i]);
  }
}

void Segmenter::Body::segment_on_device(const std::uint8_t* images, std::uint8_t* labels, std::size_t count,
                                        void* stream, float* scores) {
  if (!graph->on_gpu()) {
    throw Error(info.backend + " on " + info.device + " takes no images in a GPU's memory",
                "open it on `cuda:N` with tensorrt, tensorrt-rtx or onnxruntime, or call segment");
  }
  if (scores != nullptr && !info.scores) {
    throw Error(info.path + " gives labels only", "export it with --scores, or give the run");
  }
  if (count == 0) return;
  if (images == nullptr || labels == nullptr) throw Error("images or labels are null", "give memory of the GPU");
  const auto batch = static_cast<std::int64_t>(count);
  Pool<Place>::Loan loan = places.lend();
  Place& place = *loan;
  place.inputs[0] = {images, {batch, info.height, info.width, 3}, true};
  place.outputs[0] = {labels, {batch, info.height, info.width}, true};
  if (info.scores) {
    place.outputs[1] = {scores, {batch, scores_shape_[0], scores_shape_[1], scores_shape_[2]}, true};
  }
  place.request->run(place.inputs, place.outputs, {stream, true});
}

// In float32 and in numpy's order, so that it equals `predict_with_trust` to the bit.
void Segmenter::Body::write_trust(Place& place, std::size_t index, const Letterbox& box, const MapView& out) {
  const auto classes = static_cast<std::size_t>(scores_shape_[0]);
  const int rows = static_cast<int>(scores_shape_[1]), columns = static_cast<int>(scores_shape_[2]);
  const std::size_t size = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
  const float* scores = place.scores.data() + index * classes * size;
  std::vector<float>& sums = place.sums;
  sums.assign(scores, scores + size);
  std::vector<float> best(scores, scores + size);
  for (std::size_t c = 1; c < classes; ++c) {
    for (std::size_t i = 0; i < size; ++i) {
      const float score = scores[c * size + i];
      sums[i] += score;
      best[i] = std::max(best[i], score);
    }
  }
  place.share.resize(size);
  for (std::size_t i = 0; i < size; ++i) {
    const float share = best[i] / std::max(sums[i], 1e-6F);
    place.share[i] = static_cast<std::uint8_t>(std::clamp(std::nearbyintf(255.0F * share), 0.0F, 255.0F));
  }
  const int height = info.height, width = info.width;
  place.trust.resize(static_cast<std::size_t>(height) * static_cast<std::size_t>(width));
  place.trust_resizer.bilinear({place.share.data(), rows, columns, columns}, {place.trust.data(), height, width, width},
                               1);
  restore(place.trust.data(), width, box, out, place.map_resizer);
}

Segmenter::Segmenter(const std::string& bundle, const Options& options) : body_(open_body(bundle, options)) {}
Segmenter::~Segmenter() = default;
Segmenter::Segmenter(Segmenter&&) noexcept = default;
Segmenter& Segmenter::operator=(Segmenter&&) noexcept = default;

const SegmenterInfo& Segmenter::info() const { return body_->info; }

void Segmenter::segment(const ImageView& image, const MapView& labels, const MapView& trust) const {
  body_->segment(&image, &labels, &trust, 1);
}

void Segmenter::segment_on_device(const std::uint8_t* images, std::uint8_t* labels, std::size_t count, void* stream,
                                  float* scores) const {
  body_->segment_on_device(images, labels, count, stream, scores);
}

void Segmenter::segment(const std::vector<ImageView>& images, const std::vector<MapView>& labels,
                        const std::vector<MapView>& trusts) const {
  if (labels.size() != images.size() || (!trusts.empty() && trusts.size() != images.size())) {
    throw Error(std::to_string(images.size()) + " images, " + std::to_string(labels.size()) + " labels and " +
                    std::to_string(trusts.size()) + " trusts do not fit",
                "give one of each for every image");
  }
  body_->segment(images.data(), labels.data(), trusts.empty() ? nullptr : trusts.data(), images.size());
}

namespace {

Queue::Job job_of(Segmenter::Body& body, const ImageView& image, const MapView& labels, const MapView& trust,
                  Segmenter::Done done) {
  return [&body, image, labels, trust, done = std::move(done)] {
    std::exception_ptr fault;
    try {
      body.segment(&image, &labels, &trust, 1);
    } catch (...) {
      fault = std::current_exception();
    }
    done(fault);
  };
}

}  // namespace

void Segmenter::submit(const ImageView& image, const MapView& labels, const MapView& trust, Done done) const {
  body_->check(image, labels, trust);
  body_->queue.put(job_of(*body_, image, labels, trust, std::move(done)));
}

bool Segmenter::try_submit(const ImageView& image, const MapView& labels, const MapView& trust, Done done) const {
  body_->check(image, labels, trust);
  return body_->queue.try_put(job_of(*body_, image, labels, trust, std::move(done)));
}

std::future<void> Segmenter::submit(const ImageView& image, const MapView& labels, const MapView& trust) const {
  const auto promise = std::make_shared<std::promise<void>>();
  submit(image, labels, trust,
         [promise](const std::exception_ptr& fault) { fault ? promise->set_exception(fault) : promise->set_value(); });
  return promise->get_future();
}

SelfTest Segmenter::self_test() const {
  const Reference reference = read_reference(body_->bundle);
  const std::size_t pixels = static_cast<std::size_t>(info().height) * static_cast<std::size_t>(info().width);
  std::vector<std::uint8_t> labels(pixels);
  std::size_t equal = 0;
  for (int i = 0; i < reference.images; ++i) {
    const std::size_t at = static_cast<std::size_t>(i) * pixels;
    segment({reference.image.data() + at * 3, info().height, info().width},
            {labels.data(), info().height, info().width});
    for (std::size_t p = 0; p < pixels; ++p) equal += labels[p] == reference.labels[at + p];
  }
  const double total = static_cast<double>(pixels) * reference.images;
  return {reference.images, static_cast<double>(equal) / total, body_->bundle.facts.label_agreement};
}

}  // namespace clouds
