/* The C API: for C, and for every language that binds C. No exception and no C++ type crosses it.
 *
 * Every function that can fail returns a status; clouds_message and clouds_hint then say what is wrong and what to
 * do about it, for the calling thread, until its next call. */
#ifndef CLOUDS_H
#define CLOUDS_H

#include <stddef.h>
#include <stdint.h>

#include "clouds/api.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  CLOUDS_OK = 0,
  CLOUDS_REFUSED = 1, /* what was given does not hold: see message and hint */
  CLOUDS_FULL = 2,    /* clouds_try_submit: the queue is full */
  CLOUDS_FAULT = 3    /* the machine's or the library's fault: no memory, a bug */
} clouds_status;

typedef enum { CLOUDS_RGB = 0, CLOUDS_BGR = 1, CLOUDS_RGBA = 2, CLOUDS_BGRA = 3 } clouds_pixel_format;

/* As clouds::Options; begin with clouds_options_default, so that a later version's fields have their defaults. */
typedef struct {
  size_t size; /* of this struct, set by clouds_options_default */
  const char* backend;
  const char* device;
  int threads;
  const char* precision;
  const char* vocabulary;
  int verify;
  size_t requests;
  size_t workers;
  size_t queue;
  int batch;
  void* cuda_stream;
} clouds_options;

/* Rows are row_stride bytes apart; 0: they lie against each other. */
typedef struct {
  const uint8_t* data;
  int height;
  int width;
  ptrdiff_t row_stride;
  clouds_pixel_format format;
} clouds_image;

/* One byte a pixel, as high and wide as its image. data null: not wanted. */
typedef struct {
  uint8_t* data;
  int height;
  int width;
  ptrdiff_t row_stride;
} clouds_map;

typedef struct clouds_segmenter clouds_segmenter;

CLOUDS_API const char* clouds_version(void);
CLOUDS_API const char* clouds_backends(void); /* those built in, with spaces between */
CLOUDS_API const char* clouds_message(void);
CLOUDS_API const char* clouds_hint(void);

CLOUDS_API void clouds_options_default(clouds_options* options);

/* options null: the defaults. *out is null on failure. */
CLOUDS_API clouds_status clouds_segmenter_open(const char* bundle, const clouds_options* options,
                                               clouds_segmenter** out);
/* Waits for what was submitted; null is fine. */
CLOUDS_API void clouds_segmenter_close(clouds_segmenter* segmenter);

CLOUDS_API void clouds_segmenter_size(const clouds_segmenter* segmenter, int* height, int* width);
CLOUDS_API int clouds_segmenter_has_scores(const clouds_segmenter* segmenter);
CLOUDS_API size_t clouds_segmenter_classes(const clouds_segmenter* segmenter);
/* The name of a label; null beyond the last. It lives as long as the segmenter. */
CLOUDS_API const char* clouds_segmenter_class(const clouds_segmenter* segmenter, size_t label);
CLOUDS_API const char* clouds_segmenter_backend(const clouds_segmenter* segmenter);

/* Labels `count` images in one inference; trusts null: not wanted. Any number of threads may call it. */
CLOUDS_API clouds_status clouds_segment(const clouds_segmenter* segmenter, const clouds_image* images,
                                        const clouds_map* labels, const clouds_map* trusts, size_t count);

/* The same for images in the memory of the GPU that the segmenter runs on, queued on `stream`, a cudaStream_t: see
 * clouds/segmenter.hpp. scores null: not wanted. */
CLOUDS_API clouds_status clouds_segment_on_device(const clouds_segmenter* segmenter, const uint8_t* images,
                                                  uint8_t* labels, size_t count, void* stream, float* scores);

/* Called from a thread of the library when an image is done; message and hint are empty on CLOUDS_OK. */
typedef void (*clouds_done)(void* context, clouds_status status, const char* message, const char* hint);

/* Queues one image; the pixels must stay until `done` is called. clouds_submit blocks while the queue is full,
 * clouds_try_submit gives CLOUDS_FULL. After any status but CLOUDS_OK, done is not called. */
CLOUDS_API clouds_status clouds_submit(const clouds_segmenter* segmenter, const clouds_image* image,
                                       const clouds_map* labels, const clouds_map* trust, clouds_done done,
                                       void* context);
CLOUDS_API clouds_status clouds_try_submit(const clouds_segmenter* segmenter, const clouds_image* image,
                                           const clouds_map* labels, const clouds_map* trust, clouds_done done,
                                           void* context);

/* Labels the bundle's own images; `agreement` is the share of pixels, 0..1, with PyTorch's label. */
CLOUDS_API clouds_status clouds_self_test(const clouds_segmenter* segmenter, double* agreement, double* limit);

/* A SAM: promptable segmentation. See clouds/sam.hpp. */
typedef struct clouds_sam clouds_sam;
typedef struct clouds_embedding clouds_embedding;

CLOUDS_API clouds_status clouds_sam_open(const char* bundle, const clouds_options* options, clouds_sam** out);
CLOUDS_API void clouds_sam_close(clouds_sam* sam);
/* Sides of the square that the encoder sees, and of the logits' square. */
CLOUDS_API void clouds_sam_size(const clouds_sam* sam, int* image_size, int* mask_size);

/* Encodes an image; the embedding outlives neither its SAM nor clouds_embedding_free. */
CLOUDS_API clouds_status clouds_sam_embed(const clouds_sam* sam, const clouds_image* image, clouds_embedding** out);
CLOUDS_API void clouds_embedding_free(clouds_embedding* embedding);

/* points: (prompts, count, 2) x and y in pixels of the image; labels: (prompts, count) 1 foreground, 0 background,
 * 2 and 3 a box's corners, -1 no point. Writes logits (prompts, 3, mask_size, mask_size) and iou (prompts, 3). */
CLOUDS_API clouds_status clouds_sam_prompt(const clouds_sam* sam, const clouds_embedding* embedding,
                                           const double* points, const int* labels, size_t prompts, size_t count,
                                           float* logits, float* iou);

/* Brings logits of one proposal to the image's size: 1 inside, 0 outside. */
CLOUDS_API clouds_status clouds_sam_mask(const clouds_sam* sam, const clouds_embedding* embedding, const float* logits,
                                         const clouds_map* mask);

#ifdef __cplusplus
}
#endif

#endif
