// Where an ONNX file takes its weights from, asked before a runtime reads it.
#pragma once

#include <filesystem>
#include <istream>
#include <set>
#include <string>

namespace clouds {

// Refuses an ONNX file that takes weights from anywhere but files beside it that `listed` names: from other places on
// the disk, or from the process's own memory. Reads the file's structure only, never its weights. Throws Error.
//
// Returns false where the file is no protobuf of a model at all: a runtime that is given it has to refuse it.
bool check_weights(const std::filesystem::path& model, const std::set<std::string>& listed);
bool check_weights(std::istream& model, const std::string& where, const std::set<std::string>& listed);

}  // namespace clouds
