#include "engine_builder.hpp"

#include "clouds/error.hpp"

namespace clouds {

std::map<std::string, std::array<Shape, 3>> engine_shapes(const std::vector<TensorSpec>& inputs, const Range& batch,
                                                          const Range& points, const Shape& vocabulary) {
  std::map<std::string, std::array<Shape, 3>> out;
  for (const TensorSpec& spec : inputs) {
    std::array<Shape, 3>& shapes = out[spec.name];
    for (std::size_t i = 0; i < 3; ++i) {
      Shape& shape = shapes[i];
      shape = spec.shape;
      if (spec.name == "vocabulary" || spec.name == "class_share") {
        if (vocabulary.size() != 3) throw Error("`" + spec.name + "` has no shape", "give the bundle's vocabulary");
        shape = spec.name == "vocabulary" ? vocabulary : Shape{vocabulary[0]};
        continue;
      }
      // a SAM's decoder takes one embedding for all prompts; its second free axis is that of the points
      const bool one = spec.name == "image_embeddings";
      for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        if (shape[axis] >= 0) continue;
        if (axis > 1) throw Error("`" + spec.name + "` has a free size that no option names", "export it again");
        shape[axis] = axis == 1 ? points[i] : one ? 1 : batch[i];
      }
    }
  }
  return out;
}

}  // namespace clouds
