// The hooks interface of PrivateUse1: what PyTorch asks a backend outside of dispatch. Registered
// in hooks.cpp; the one part that needs a recorded copy is provided by csrc/aten.
#pragma once

#include <c10/core/Storage.h>

namespace accel::runtime {

// Gives a storage `bytes` bytes, keeping the contents they share, in program order of the current
// stream. csrc/aten registers it at load: the contents move by a recorded copy.
using ResizeBytes = void (*)(const c10::Storage& storage, size_t bytes);
void register_resize_bytes(ResizeBytes resize);

}  // namespace accel::runtime
