// Threads that run a block of a program together: what of each step is whose, and where they wait for each other.
//
// All of them run the same steps. Where a block has frames enough each thread has frames of its own, the same ones at
// every step; so they meet only before steps that look at the frames of others, or that write where others may still
// read (`find_meetings`). Of a block of few frames they share every step: its positions, lines or elements, or the
// outputs of a product with large weights. A recurrent layer's loop over time is shared as the packed engine shares it
// (`Way`). Sums keep their order whoever makes them, so results are the same to the last bit.
#pragma once

#include "program/program.h"
#include "threads/share.h"

namespace cgru {
namespace {

const int64_t fewest_frames = 4;  // of each thread, from which on threads have frames of their own

// How the loop of a recurrent layer is shared, where that is not by frames.
enum Way : uint8_t {
    way_alone,   // its input products are shared; the first thread runs the loop
    way_units,   // each thread owns blocks of units, and they meet at every step, once a phase
    way_lines,   // each has sequences of its own
    way_beside,  // this layer by the first half of the threads, the next step, the other direction, by the second
};

// What members of a team have in common.
struct Team {
    const int size;
    const uint8_t* const ways;  // [steps] of a program
    char* const scratch;        // [size] of each member
    const int64_t scratch_size;
    Watch& watch;
    Meeting meeting, first_half, second_half;
    std::atomic<int64_t> wrong{-1};  // the step that met an index out of range
    bool abandoned = false;          // written by the first member before a meeting, read by all after it
    double lost = 0, began = 0;      // seconds that the first member waited for cores; when it began to count

    Team(int size, const uint8_t* ways, char* scratch, int64_t scratch_size, Watch& watch)
        : size(size), ways(ways), scratch(scratch), scratch_size(scratch_size), watch(watch), meeting(size),
          first_half(size / 2), second_half(size / 2), began(seconds_now()) {}
};

// The range of a member among `count` things, of which `grain` stay together; the first member has the most.
inline void share_of(int64_t count, int64_t grain, int64_t part, int64_t parts, int64_t& first, int64_t& last) {
    const int64_t grains = (count + grain - 1) / grain;
    first = smaller(count, (grains * part + parts - 1) / parts * grain);
    last = smaller(count, (grains * (part + 1) + parts - 1) / parts * grain);
}

// One thread of a team. While it runs a step, `part` of `parts` is what it has of it: of the whole team, or of the half
// that runs one of two directions.
struct Member {
    Team& team;
    const int number;
    int part, parts, leader = 0;  // leader: the member in whose scratch memory lies what the parts have in common
    bool by_frames = false;       // of the block
    Way way = way_alone;          // of the step

    Member(Team& team, int number) : team(team), number(number), part(number), parts(team.size) {}

    char* scratch_of(int member) const { return team.scratch + member * team.scratch_size; }

    // Wait for the others of the step. False if the call ends.
    bool meet() {
        if (parts == team.size) return team.meeting.wait(meetings, number, team.watch);
        Meeting& half = leader ? team.second_half : team.first_half;
        return parts == 1 || half.wait(half_meetings, part, team.watch);
    }

    // Take a half's part in a step. False for one that is in none, where their number is odd.
    bool join_half() {
        parts = team.size / 2;
        leader = number < parts ? 0 : parts;
        part = number - leader;
        return part < parts;
    }
    bool second() const { return leader > 0; }
    void leave_half() {
        parts = team.size;
        part = number;
        leader = 0;
    }

    // Meet where a stretch of work ends, and see what it has cost: a first member that has waited for most of it for
    // cores that others had goes on alone. False if this member has no more to do; `alone` is set if it is to.
    bool stay(bool& alone) {
        if (parts < team.size) return meet();
        if (number == 0) {
            const double now = seconds_now(), waited = team.meeting.lost;
            team.abandoned = waited > 0.5 * (now - team.began);
            team.lost += waited;
            team.meeting.lost = 0;
            team.began = now;
        }
        if (!meet()) return false;
        if (!team.abandoned) return true;
        alone = number == 0;
        return alone;
    }

  private:
    int64_t meetings = 0, half_meetings = 0;
};

}  // namespace
}  // namespace cgru
