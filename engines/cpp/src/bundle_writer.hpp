// A bundle with one more engine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "documents.hpp"

namespace clouds {

// Adds an engine to a bundle, or replaces the one of its file name. A second directory is made beside the bundle's, of
// the same files, the engine, and documents that name it; `prove` may look at it and throw; then the two change places
// at once. So a bundle is there, whole, at any moment. Throws Error, and then the bundle is as it was.
void add_engine(const std::filesystem::path& bundle, const std::string& kind, EngineEntry entry,
                const std::vector<std::uint8_t>& plan, const std::function<void(const std::filesystem::path&)>& prove);

}  // namespace clouds
