// Headers that nearly every file of csrc/ needs, compiled once.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <torch/library.h>

#include <memory>
#include <vector>
