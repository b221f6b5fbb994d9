// As clouds_deploy.inference.sam; source: `SamPredictor` of segment_anything, with `multimask_output=True`.
#include "clouds/sam.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "backend.hpp"
#include "bundle.hpp"
#include "interpolate.hpp"
#include "letterbox.hpp"
#include "machine.hpp"
#include "names.hpp"
#include "pool.hpp"

namespace clouds {
namespace {

constexpr std::size_t kPrompts = 16;  // decoded at once
constexpr std::size_t kProposals = 3;

// The specs in the order that the code below feeds them; throws where the graph has others.
std::vector<TensorSpec> ordered(const std::vector<TensorSpec>& specs, const std::vector<TensorSpec>& wanted,
                                const SamBundle& bundle) {
  std::vector<TensorSpec> out;
  for (const TensorSpec& want : wanted) {
    for (const TensorSpec& spec : specs) {
      const bool same = spec.name == want.name && spec.dtype == want.dtype && spec.shape.size() == want.shape.size();
      if (same) out.push_back(spec);
    }
  }
  if (out.size() != wanted.size() || specs.size() != wanted.size()) {
    throw Error((bundle.path / "bundle.json").string() + " lacks or garbles a fact: inputs or outputs of another shape",
                "export it again with this version");
  }
  return out;
}

// One of the two graphs; `name` is encoder or decoder.
std::unique_ptr<Graph> open_part(const SamBundle& bundle, const std::string& name, const GraphFacts& facts,
                                 const std::vector<TensorSpec>& inputs, const std::vector<TensorSpec>& outputs,
                                 const Options& options, std::vector<std::string>& warnings) {
  GraphFile file{inside(bundle.path, facts.file, (bundle.path / "bundle.json").string()),
                 ordered(facts.inputs, inputs, bundle), ordered(facts.outputs, outputs, bundle)};
  use_engine(file, bundle.facts.engines, name, bundle.path, options);
  warnings.insert(warnings.end(), file.warnings.begin(), file.warnings.end());
  return open_graph(options.backend, file, options);
}

bool is_known(int label) { return label >= -1 && label <= 3; }
bool is_corner(const SamPoint& point) { return point.label >= 2; }

}  // namespace

struct Sam::Body {
  Body(SamBundle opened, const Options& options)
      : bundle(std::move(opened)),
        info{bundle.path.string(), bundle.facts.name, bundle.facts.image_size, 0, options.backend, "",
             {}},
        encoder(open_part(bundle, "encoder", bundle.facts.encoder,
                          {{"image", "uint8", {-1, -1, -1, 3}}, {"size", "int32", {-1, 2}}},
                          {{"image_embeddings", "float32", {-1, -1, -1, -1}}}, options, info.warnings)),
        decoder(open_part(bundle, "decoder", bundle.facts.decoder,
                          {{"image_embeddings", "float32", {-1, -1, -1, -1}},
                           {"image_index", "int64", {-1}},
                           {"point_coords", "float32", {-1, -1, 2}},
                           {"point_labels", "float32", {-1, -1}}},
                          {{"masks", "float32", {-1, 3, -1, -1}}, {"iou_predictions", "float32", {-1, 3}}}, options,
                          info.warnings)),
        encoders([this] { return std::make_unique<Place>(encoder->request()); }, options.requests),
        decoders([this] { return std::make_unique<Place>(decoder->request()); }, options.requests) {
    embedding = bundle.facts.encoder.outputs[0].shape;
    embedding[0] = 1;
    if (std::any_of(embedding.begin(), embedding.end(), [](std::int64_t size) { return size < 1; })) {
      throw Error((bundle.path / "bundle.json").string() + " lacks or garbles a fact: embeddings of no size",
                  "export it again with this version");
    }
    info.mask_size = static_cast<int>(4 * embedding[2]);
    info.device = encoder->device();
  }

  // Height and width that an image is resized to: its long side to the square's.
  std::pair<int, int> fitted(int height, int width) const {
    const double scale = static_cast<double>(info.image_size) / std::max(height, width);
    return {static_cast<int>(height * scale + 0.5), static_cast<int>(width * scale + 0.5)};
  }

  void decode(const SamEmbedding& seen, const std::vector<const SamPrompt*>& prompts, std::size_t points,
              const std::vector<SamProposals*>& out);

  struct Place {
    explicit Place(std::unique_ptr<Request> made) : request(std::move(made)) {}
    std::unique_ptr<Request> request;
    std::vector<std::uint8_t> square, packed;
    std::vector<float> coordinates, labels, masks, scores;
    std::vector<std::int64_t> index;
    Resizer resizer;
  };

  SamBundle bundle;
  SamInfo info;
  std::unique_ptr<Graph> encoder, decoder;
  Shape embedding;
  Pool<Place> encoders, decoders;
};

namespace {

SamBundle open(const std::string& path, const Options& options) {
  return open_sam_bundle(std::filesystem::u8path(path), options.verify);
}

}  // namespace

Sam::Sam(const std::string& bundle, const Options& options)
    : body_(std::make_unique<Body>(open(bundle, options), checked(options))) {}
Sam::~Sam() = default;
Sam::Sam(Sam&&) noexcept = default;
Sam& Sam::operator=(Sam&&) noexcept = default;

const SamInfo& Sam::info() const { return body_->info; }

SamEmbedding Sam::embed(const ImageView& image) const {
  check_image(image);
  const auto [rows, columns] = body_->fitted(image.height, image.width);
  const int side = body_->info.image_size;
  if (rows == 0 || columns == 0) {
    throw Error("an image of " + std::to_string(image.height) + " x " + std::to_string(image.width) +
                    " is too thin to be resized to a side of " + std::to_string(side),
                "cut it into parts");
  }
  Pool<Body::Place>::Loan loan = body_->encoders.lend();
  Body::Place& place = *loan;
  const Letterbox box{image.height, image.width, rows, columns};
  place.square.resize(static_cast<std::size_t>(side) * static_cast<std::size_t>(side) * 3);
  fit(image, box, side, side, {0, 0, 0}, place.square.data(), place.resizer, place.packed);
  const std::int32_t size[2] = {rows, columns};
  SamEmbedding out{std::vector<float>(static_cast<std::size_t>(elements(body_->embedding))), image.height, image.width};
  place.request->run({{place.square.data(), {1, side, side, 3}}, {size, {1, 2}}},
                     {{out.features.data(), body_->embedding}}, {});
  return out;
}

void Sam::Body::decode(const SamEmbedding& seen, const std::vector<const SamPrompt*>& prompts, std::size_t points,
                       const std::vector<SamProposals*>& out) {
  const auto [rows, columns] = fitted(seen.height, seen.width);
  const double scale_x = static_cast<double>(columns) / seen.width, scale_y = static_cast<double>(rows) / seen.height;
  Pool<Place>::Loan loan = decoders.lend();
  Place& place = *loan;
  const std::size_t count = prompts.size();
  const std::size_t area = static_cast<std::size_t>(info.mask_size) * static_cast<std::size_t>(info.mask_size);
  place.index.assign(count, 0);
  place.coordinates.assign(count * points * 2, 0.0F);
  place.labels.assign(count * points, -1.0F);
  for (std::size_t p = 0; p < count; ++p) {
    for (std::size_t i = 0; i < prompts[p]->size(); ++i) {
      const SamPoint& point = (*prompts[p])[i];
      place.coordinates[(p * points + i) * 2] = static_cast<float>(point.x * scale_x);
      place.coordinates[(p * points + i) * 2 + 1] = static_cast<float>(point.y * scale_y);
      place.labels[p * points + i] = static_cast<float>(point.label);
    }
  }
  place.masks.resize(count * kProposals * area);
  place.scores.resize(count * kProposals);
  const auto many = static_cast<std::int64_t>(count), long_ = static_cast<std::int64_t>(points);
  place.request->run(
      {{seen.features.data(), embedding},
       {place.index.data(), {many}},
       {place.coordinates.data(), {many, long_, 2}},
       {place.labels.data(), {many, long_}}},
      {{place.masks.data(), {many, 3, info.mask_size, info.mask_size}}, {place.scores.data(), {many, 3}}}, {});
  for (std::size_t p = 0; p < count; ++p) {
    for (std::size_t k = 0; k < kProposals; ++k) {
      const float* from = place.masks.data() + (p * kProposals + k) * area;
      out[p]->logits[k].assign(from, from + area);
      out[p]->iou[k] = place.scores[p * kProposals + k];
    }
  }
}

std::vector<SamProposals> Sam::prompt(const SamEmbedding& seen, const std::vector<SamPrompt>& prompts) const {
  if (seen.height < 1 || seen.width < 1 ||
      seen.features.size() != static_cast<std::size_t>(elements(body_->embedding))) {
    throw Error(
        "an embedding of " + std::to_string(seen.features.size()) + " numbers is none of `" + body_->info.name + "`",
        "give what embed gave");
  }
  std::size_t most = 0;
  for (const SamPrompt& prompt : prompts) {
    most = std::max(most, prompt.size());
    if (prompt.empty()) throw Error("a prompt has no points", "give at least one");
    for (const SamPoint& point : prompt) {
      if (!is_known(point.label)) {
        throw Error("a point's label is none that SAM knows",
                    "1 foreground, 0 background, 2 and 3 a box's corners, -1 for no point");
      }
      if (!std::isfinite(point.x) || !std::isfinite(point.y)) {
        throw Error("a point is not a finite number", "give x and y in pixels");
      }
    }
  }
  std::vector<SamProposals> out(prompts.size());
  for (const bool boxed : {true, false}) {
    std::vector<const SamPrompt*> chosen;
    std::vector<SamProposals*> to;
    const auto flush = [&] {
      // as SAM was trained: without a box, a point that is none stands in for it
      if (!chosen.empty()) body_->decode(seen, chosen, most + (boxed ? 0 : 1), to);
      chosen.clear();
      to.clear();
    };
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      if (std::any_of(prompts[i].begin(), prompts[i].end(), is_corner) != boxed) continue;
      chosen.push_back(&prompts[i]);
      to.push_back(&out[i]);
      if (chosen.size() == kPrompts) flush();
    }
    flush();
  }
  return out;
}

void Sam::mask(const SamEmbedding& seen, const std::vector<float>& logits, const MapView& out) const {
  const int low = body_->info.mask_size, side = body_->info.image_size;
  if (logits.size() != static_cast<std::size_t>(low) * static_cast<std::size_t>(low)) {
    throw Error("masks of " + std::to_string(logits.size()) + " numbers are no low-resolution masks of `" +
                    body_->info.name + "`",
                "give " + std::to_string(low) + " x " + std::to_string(low) + ", one proposal");
  }
  check_map(out, {nullptr, seen.height, seen.width}, "masks");
  const auto [rows, columns] = body_->fitted(seen.height, seen.width);
  std::vector<float> square, full;
  interpolate(logits.data(), low, Between(low, side, rows), Between(low, side, columns), square);
  const bool same = rows == seen.height && columns == seen.width;  // then the second resizing changes nothing
  if (!same) {
    interpolate(square.data(), columns, Between(rows, seen.height, seen.height),
                Between(columns, seen.width, seen.width), full);
  }
  const std::vector<float>& last = same ? square : full;
  for (int y = 0; y < seen.height; ++y) {
    std::uint8_t* to = out.data + y * stride_of(out);
    const float* from = last.data() + static_cast<std::ptrdiff_t>(y) * seen.width;
    for (int x = 0; x < seen.width; ++x) to[x] = from[x] > 0 ? 1 : 0;
  }
}

}  // namespace clouds
