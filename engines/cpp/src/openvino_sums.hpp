// Weighted sums of gathered rows as OpenVINO's own operation for them; see clouds_deploy.backends.openvino.sums.
#pragma once

#include <memory>
#include <openvino/openvino.hpp>

namespace clouds {

// Replaces weights (M, 1, K) times gathered rows (M, K, D) by sums of a table's rows, in a model of fixed sizes.
void sum_gathered_rows(const std::shared_ptr<ov::Model>& model);

}  // namespace clouds
