#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Break each rule in turn: does a test notice? Prints TAP, one result for each
# line of the table below; "ok" means that what is named there failed or that
# the kernel complained.
#
#	mutants.sh [RULE...]
#
# RULE is a file in /sys/kernel/debug/nopin/break/; the boot parameter
# nopin_break= does the same. The test that has to notice is one of KUnit, as
# SUITE.TEST, or one of run.sh, as PROGRAM:TEST. Each is run first with no rule
# broken, and must pass then: a test that always fails would notice anything.

set -u

here=$(dirname "$(readlink -f "$0")")
repo=$(readlink -f "$here/../../../..")
logs=$repo/build/mutants
flavor=${NOPIN_FLAVOR:-kasan}

# Which rule of Documentation/mm/nopin.rst, how it is broken, who notices
table='
R1	wait		nopin-protocol.test_waits_for_exit
R1	wait		lifetime:protect_read_read
R1	early_exit	lifetime:other_thread_read
R2	flush		selfmap:read_same
R3	block		errors:read
R4	memalloc	nopin-protocol.test_refused_in_reclaim
R4	memalloc	reclaim:pageout
R5	late_exit	starve:submitter
R6	prompt		accounting:polled_in_flight
R6	other		passthrough:protect_read
R8	prompt		lifetime:protect_read_read
R9	dirty		dirty:lazyfree
R10	irqs		nopin-walk.test_walk_is_atomic
R11	special		nopin-walk.test_secretmem
R12	free		nopin-protocol.test_destroyed_during_exit
R13	reopen		nopin-protocol.test_overlapping
R15	release		nopin-mapping.test_event
R16	overflow	nopin-protocol.test_count_full
R1	stale		nopin-cache.test_unknown_page
R1	stale		fixed:mapping
R1	shrink		nopin-cache.test_age
R14	young		nopin-cache.test_young
R14	young		aging:busy_stays
R15	mm		fixed:foreign
R15	clone		fixed:clone
R1	unheld		nopin-mapping.test_change_pins
R1	unheld		throttle:truncate
bound	refuse		nopin-protocol.test_refused_after_patience
bound	refuse		throttle:bound_refusable
bound	behalf		nopin-mapping.test_change_pins
bound	behalf		throttle:bound_truncate
bound	budget		throttle:bound_places
bound	buys		lifetime:munmap_read
bound	hint		nopin-mapping.test_hint
'

# run TEST LOG [BREAK]: the status of the test, with a rule broken or not
run()
{
	append=${3:+nopin_break=$3}
	case $1 in
	*:*)
		VM_RUN="${append:+--append $append} --timeout 300" \
			"$here/vm.sh" nopin "$flavor" "${1%%:*}" -- -t "${1#*:}" \
			>"$2" 2>&1
		;;
	*)
		"$repo/tools/testing/vm/run" --flavor "$flavor" --timeout 300 \
			--append "kunit.enable=1 kunit.filter_glob=$1 $append" \
			-- cat "/sys/kernel/debug/kunit/${1%%.*}/results" \
			>"$2" 2>&1 &&
			grep -q "^ *ok .* ${1#*.}$" "$2" &&
			! grep -q "^ *not ok" "$2"
		;;
	esac
}

n=0
result()
{
	n=$((n + 1))
	echo "$1 $n $2"
}

mkdir -p "$logs"
echo "TAP version 13"
sound=
wanted=" ${*:-all} "
# The table has no blanks but the tabs that part the columns
# shellcheck disable=SC2086
set -- $table
while [ $# -ge 3 ]; do
	rule=$1 break=$2 test=$3
	shift 3
	case $wanted in
	*" all "*|*" $break "*) ;;
	*) continue ;;
	esac

	case " $sound " in
	*" $test "*) ;;
	*)
		log=$logs/none-$test.log
		if run "$test" "$log"; then
			sound="$sound $test"
			result ok "$test passes as long as no rule is broken"
		else
			result "not ok" "$test passes as long as no rule is broken"
			tail -n 5 "$log" | sed 's/^/# /'
			continue
		fi
		;;
	esac

	log=$logs/$break-$test.log
	if run "$test" "$log" "$break"; then
		result "not ok" "$rule broken ($break): $test notices"
		tail -n 5 "$log" | sed 's/^/# /'
	else
		result ok "$rule broken ($break): $test notices"
	fi
done
echo "1..$n"
