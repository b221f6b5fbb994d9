#include "clouds/clouds.h"

#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "clouds/sam.hpp"
#include "clouds/segmenter.hpp"

struct clouds_segmenter {
  clouds::Segmenter segmenter;
};
struct clouds_sam {
  clouds::Sam sam;
};
struct clouds_embedding {
  clouds::SamEmbedding seen;
};

namespace {

constexpr size_t kMostPoints = size_t{1} << 20;

thread_local std::string last_message, last_hint;

void keep(std::string& to, const char* text) noexcept {
  try {
    to = text;
  } catch (...) {
    to.clear();
  }
}

clouds_status keep(clouds_status status, const char* message, const char* hint) noexcept {
  keep(last_message, message);
  keep(last_hint, hint);
  return status;
}

// Says what an exception was, to a function of (status, message, hint).
template <typename Say>
clouds_status explain(const std::exception_ptr& fault, Say say) noexcept {
  try {
    std::rethrow_exception(fault);
  } catch (const clouds::Error& error) {
    return say(CLOUDS_REFUSED, error.message().c_str(), error.hint().c_str());
  } catch (const std::bad_alloc&) {
    return say(CLOUDS_FAULT, "there is not enough memory", "give smaller images or batches");
  } catch (const std::exception& error) {
    return say(CLOUDS_FAULT, error.what(), "please report it");
  } catch (...) {
    return say(CLOUDS_FAULT, "an unknown fault", "please report it");
  }
}

template <typename Call>
clouds_status guarded(Call call) noexcept {
  try {
    keep(CLOUDS_OK, "", "");
    return call();
  } catch (...) {
    return explain(std::current_exception(), [](clouds_status status, const char* message, const char* hint) {
      return keep(status, message, hint);
    });
  }
}

clouds_status null_given(const char* what) { throw clouds::Error(std::string(what) + " is null", "see clouds.h"); }

clouds::ImageView view(const clouds_image& image) {
  return {image.data, image.height, image.width, image.row_stride, static_cast<clouds::PixelFormat>(image.format)};
}

clouds::MapView view(const clouds_map& map) { return {map.data, map.height, map.width, map.row_stride}; }

std::string text(const char* given, const char* otherwise) { return given != nullptr ? given : otherwise; }

clouds::Options options_of(const clouds_options* given) {
  clouds_options filled;
  clouds_options_default(&filled);
  if (given != nullptr) {
    if (given->size == 0 || given->size > sizeof filled) {
      throw clouds::Error("options of " + std::to_string(given->size) + " bytes are none of this version's",
                          "begin with clouds_options_default");
    }
    std::memcpy(&filled, given, given->size);
  }
  clouds::Options out;
  out.backend = text(filled.backend, "");
  out.device = text(filled.device, "cpu");
  out.threads = filled.threads;
  out.precision = text(filled.precision, "fp32");
  out.vocabulary = text(filled.vocabulary, "");
  out.verify = filled.verify != 0;
  out.requests = filled.requests;
  out.workers = filled.workers;
  out.queue = filled.queue;
  out.batch = filled.batch;
  out.cuda_stream = filled.cuda_stream;
  return out;
}

clouds::Segmenter::Done callback(clouds_done done, void* context) {
  return [done, context](const std::exception_ptr& fault) {
    if (!fault) return done(context, CLOUDS_OK, "", "");
    explain(fault, [&](clouds_status status, const char* message, const char* hint) {
      done(context, status, message, hint);
      return status;
    });
  };
}

}  // namespace

extern "C" {

const char* clouds_version(void) { return CLOUDS_VERSION; }
const char* clouds_backends(void) {
  thread_local std::string names;
  keep(names, "");
  guarded([] {
    for (const std::string& name : clouds::backends()) names += (names.empty() ? "" : " ") + name;
    return CLOUDS_OK;
  });
  return names.c_str();
}
const char* clouds_message(void) { return last_message.c_str(); }
const char* clouds_hint(void) { return last_hint.c_str(); }

void clouds_options_default(clouds_options* options) {
  if (options == nullptr) return;
  const clouds::Options own;
  *options = {sizeof(clouds_options), nullptr,     nullptr,  own.threads, nullptr, nullptr, 1,
              own.requests,           own.workers, own.queue, own.batch,   nullptr};
}

clouds_status clouds_segmenter_open(const char* bundle, const clouds_options* options, clouds_segmenter** out) {
  return guarded([&] {
    if (out == nullptr) return null_given("out");
    *out = nullptr;
    if (bundle == nullptr) return null_given("bundle");
    *out = new clouds_segmenter{clouds::Segmenter(bundle, options_of(options))};
    return CLOUDS_OK;
  });
}

void clouds_segmenter_close(clouds_segmenter* segmenter) { delete segmenter; }

void clouds_segmenter_size(const clouds_segmenter* segmenter, int* height, int* width) {
  if (height != nullptr) *height = segmenter != nullptr ? segmenter->segmenter.info().height : 0;
  if (width != nullptr) *width = segmenter != nullptr ? segmenter->segmenter.info().width : 0;
}

int clouds_segmenter_has_scores(const clouds_segmenter* segmenter) {
  return segmenter != nullptr && segmenter->segmenter.info().scores ? 1 : 0;
}

size_t clouds_segmenter_classes(const clouds_segmenter* segmenter) {
  return segmenter != nullptr ? segmenter->segmenter.info().classes.size() : 0;
}

const char* clouds_segmenter_class(const clouds_segmenter* segmenter, size_t label) {
  return label < clouds_segmenter_classes(segmenter) ? segmenter->segmenter.info().classes[label].c_str() : nullptr;
}

const char* clouds_segmenter_backend(const clouds_segmenter* segmenter) {
  return segmenter != nullptr ? segmenter->segmenter.info().backend.c_str() : nullptr;
}

clouds_status clouds_segment(const clouds_segmenter* segmenter, const clouds_image* images, const clouds_map* labels,
                             const clouds_map* trusts, size_t count) {
  return guarded([&] {
    if (segmenter == nullptr) return null_given("segmenter");
    if (count == 0) return CLOUDS_OK;
    if (images == nullptr || labels == nullptr) return null_given(images == nullptr ? "images" : "labels");
    if (count == 1) {
      segmenter->segmenter.segment(view(*images), view(*labels), trusts != nullptr ? view(*trusts) : clouds::MapView{});
      return CLOUDS_OK;
    }
    std::vector<clouds::ImageView> in;
    std::vector<clouds::MapView> out, trust;
    for (size_t i = 0; i < count; ++i) {
      in.push_back(view(images[i]));
      out.push_back(view(labels[i]));
      if (trusts != nullptr) trust.push_back(view(trusts[i]));
    }
    segmenter->segmenter.segment(in, out, trust);
    return CLOUDS_OK;
  });
}

clouds_status clouds_segment_on_device(const clouds_segmenter* segmenter, const uint8_t* images, uint8_t* labels,
                                       size_t count, void* stream, float* scores) {
  return guarded([&] {
    if (segmenter == nullptr) return null_given("segmenter");
    segmenter->segmenter.segment_on_device(images, labels, count, stream, scores);
    return CLOUDS_OK;
  });
}

clouds_status clouds_submit(const clouds_segmenter* segmenter, const clouds_image* image, const clouds_map* labels,
                            const clouds_map* trust, clouds_done done, void* context) {
  return guarded([&] {
    if (segmenter == nullptr) return null_given("segmenter");
    if (image == nullptr || labels == nullptr || done == nullptr) return null_given("image, labels or done");
    segmenter->segmenter.submit(view(*image), view(*labels), trust != nullptr ? view(*trust) : clouds::MapView{},
                                callback(done, context));
    return CLOUDS_OK;
  });
}

clouds_status clouds_try_submit(const clouds_segmenter* segmenter, const clouds_image* image, const clouds_map* labels,
                                const clouds_map* trust, clouds_done done, void* context) {
  return guarded([&] {
    if (segmenter == nullptr) return null_given("segmenter");
    if (image == nullptr || labels == nullptr || done == nullptr) return null_given("image, labels or done");
    const bool taken = segmenter->segmenter.try_submit(
        view(*image), view(*labels), trust != nullptr ? view(*trust) : clouds::MapView{}, callback(done, context));
    return taken ? CLOUDS_OK : keep(CLOUDS_FULL, "the queue is full", "wait, or call clouds_submit");
  });
}

clouds_status clouds_self_test(const clouds_segmenter* segmenter, double* agreement, double* limit) {
  return guarded([&] {
    if (segmenter == nullptr) return null_given("segmenter");
    const clouds::SelfTest result = segmenter->segmenter.self_test();
    if (agreement != nullptr) *agreement = result.agreement;
    if (limit != nullptr) *limit = result.limit;
    return CLOUDS_OK;
  });
}

clouds_status clouds_sam_open(const char* bundle, const clouds_options* options, clouds_sam** out) {
  return guarded([&] {
    if (out == nullptr) return null_given("out");
    *out = nullptr;
    if (bundle == nullptr) return null_given("bundle");
    *out = new clouds_sam{clouds::Sam(bundle, options_of(options))};
    return CLOUDS_OK;
  });
}

void clouds_sam_close(clouds_sam* sam) { delete sam; }

void clouds_sam_size(const clouds_sam* sam, int* image_size, int* mask_size) {
  if (image_size != nullptr) *image_size = sam != nullptr ? sam->sam.info().image_size : 0;
  if (mask_size != nullptr) *mask_size = sam != nullptr ? sam->sam.info().mask_size : 0;
}

clouds_status clouds_sam_embed(const clouds_sam* sam, const clouds_image* image, clouds_embedding** out) {
  return guarded([&] {
    if (out == nullptr) return null_given("out");
    *out = nullptr;
    if (sam == nullptr || image == nullptr) return null_given("sam or image");
    *out = new clouds_embedding{sam->sam.embed(view(*image))};
    return CLOUDS_OK;
  });
}

void clouds_embedding_free(clouds_embedding* embedding) { delete embedding; }

clouds_status clouds_sam_prompt(const clouds_sam* sam, const clouds_embedding* embedding, const double* points,
                                const int* labels, size_t prompts, size_t count, float* logits, float* iou) {
  return guarded([&] {
    if (sam == nullptr || embedding == nullptr) return null_given("sam or embedding");
    if (prompts == 0) return CLOUDS_OK;
    if (points == nullptr || labels == nullptr || logits == nullptr || iou == nullptr) return null_given("an array");
    if (prompts > kMostPoints || count > kMostPoints || prompts * count > kMostPoints) {
      throw clouds::Error(std::to_string(prompts) + " prompts of " + std::to_string(count) + " points are too many",
                          "give at most " + std::to_string(kMostPoints) + " points in one call");
    }
    std::vector<clouds::SamPrompt> given(prompts, clouds::SamPrompt(count));
    for (size_t i = 0; i < prompts * count; ++i) {
      given[i / count][i % count] = {points[2 * i], points[2 * i + 1], labels[i]};
    }
    const std::vector<clouds::SamProposals> found = sam->sam.prompt(embedding->seen, given);
    for (const clouds::SamProposals& one : found) {
      for (const std::vector<float>& proposal : one.logits) {
        std::memcpy(logits, proposal.data(), proposal.size() * sizeof(float));
        logits += proposal.size();
      }
      std::memcpy(iou, one.iou.data(), sizeof one.iou);
      iou += one.iou.size();
    }
    return CLOUDS_OK;
  });
}

clouds_status clouds_sam_mask(const clouds_sam* sam, const clouds_embedding* embedding, const float* logits,
                              const clouds_map* mask) {
  return guarded([&] {
    if (sam == nullptr || embedding == nullptr) return null_given("sam or embedding");
    if (logits == nullptr || mask == nullptr) return null_given("logits or mask");
    const auto side = static_cast<size_t>(sam->sam.info().mask_size);
    sam->sam.mask(embedding->seen, {logits, logits + side * side}, view(*mask));
    return CLOUDS_OK;
  });
}

}  // extern "C"
