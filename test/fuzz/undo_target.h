// SPDX-License-Identifier: Apache-2.0
//
// undo_target.h - one hostile undo log against loader and undo engine.
//
// The input is edits of good logs, after which all checks are made to fit
// again: a random change alone would never get past them.
#ifndef TEST_FUZZ_UNDO_TARGET_H_
#define TEST_FUZZ_UNDO_TARGET_H_

#include <cstddef>
#include <cstdint>

namespace dmu {

// What must hold, or it aborts: the loader comes to an end and reads nothing
// beyond the log; an undo with a log that it takes comes to an end, and writes
// nothing beyond base, COW file or log. (What the old image becomes is the
// log's to say.)
void RunUndo(const uint8_t* data, size_t size);

}  // namespace dmu

#endif  // TEST_FUZZ_UNDO_TARGET_H_
