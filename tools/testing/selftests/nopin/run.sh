#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Run the nopin tests as root, in a virtual machine: disks are overwritten.
#
#	run.sh [pin|nopin] [--long] [--waits] [--without PROGRAM] [PROGRAM...]
#	       [-- ARGUMENT...]
#	run.sh --list [PROGRAM...]
#
# ARGUMENTs go to the programs, which take those of kselftest_harness.h: for
# instance "run.sh nopin lifetime -- -t munmap". Prints one TAP stream; exits 0
# if all is well, 1 if not, 2 if it could not begin. With --waits, it ends with a
# line "# wait EVENT MICROSECONDS [timeout]" for each wait for I/O.
#
# The machine is made by tools/testing/vm/run with these options, and vm.sh runs
# just that:
#
#	--cpus 2 --nodes 2 --mem 6G
#	--disk virtio,size=512M			an ext4 file system
#	--disk nvme,size=640M			an XFS
#	--disk nvme,size=128M			raw
#	--disk virtio,size=96M,iops=200		raw, where I/O takes its time
#	--disk virtio,size=256M,iops=1500	raw, throttled under load
#	--disk virtio,size=320M,iops=200	one leg of a mirror, the other is a null_blk
#	--disk virtio,size=112M		a FAT, where I/O waits until it is let go
#	--disk nvme,size=80M,iops=200		raw, where passthrough takes its time
#	--pmem 320M				file systems with DAX
#	--append "hugepagesz=1G hugepages=1 nvme.poll_queues=1 null_blk.nr_devices=0 cma=64M"
#	--append "scsi_debug.dif=1 scsi_debug.dix=1"	disks with protection information
#
# The disks are told apart by their sizes. Elsewhere name them in
# NOPIN_DISK_EXT4, NOPIN_DISK_XFS, NOPIN_RAW, NOPIN_SLOW (with NOPIN_SLOW_IOPS),
# NOPIN_CHURN, NOPIN_MIRROR_LATE, NOPIN_DISK_FAT, NOPIN_SLOW_NVME and NOPIN_PMEM.
# On NOPIN_SLOW there is another device as well, NOPIN_HELD.

set -u

programs="integrity errors selfmap nowait accounting saturate lifetime starve
	dirty reclaim switch churn fixed aging writeback throttle pressure passthrough
	matrix dax edges failing nomem moment breaks protect"
here=$(dirname "$(readlink -f "$0")")
mnt=/tmp/nopin
nopin=/sys/kernel/mm/nopin

usage()
{
	sed -n '5,13s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

die()
{
	echo "Bail out! $*"
	exit 2
}

# The programs are beside this file where the kernel's selftests are installed,
# in the checkout's build directory otherwise
if [ -z "${NOPIN_BIN:-}" ]; then
	NOPIN_BIN=$here
	[ -x "$here/integrity" ] || NOPIN_BIN=$here/../../../../build/selftests
fi
# For a server that a test starts
export NOPIN_BIN

mode=nopin
list=
waits=
without=
selected=
while [ $# -gt 0 ]; do
	case $1 in
	pin|nopin)	mode=$1 ;;
	--list)		list=1 ;;
	--long)		export NOPIN_LONG=1 ;;
	--waits)	waits=1 ;;
	--without)	without="$without $2 "; shift ;;
	--)		shift; break ;;
	-*)		usage ;;
	*)		selected="$selected $1" ;;
	esac
	shift
done
all=${selected:-$programs}
programs=
for p in $all; do
	case $without in *" $p "*) continue ;; esac
	programs="$programs $p"
	[ -x "$NOPIN_BIN/$p" ] || die "no program $p in $NOPIN_BIN"
done

if [ "$list" ]; then
	for p in $programs; do
		echo "$p"
		"$NOPIN_BIN/$p" -l 2>&1 | sed 's/^/	/'
	done
	exit 0
fi

# ---- the machine ----

# disk PREFIX BYTES: the first block device of that name and size
disk()
{
	for d in /sys/block/"$1"*; do
		[ -e "$d/size" ] || continue
		[ "$(cat "$d/size")" -eq $(($2 / 512)) ] || continue
		echo "/dev/${d##*/}"
		return
	done
}

# put VALUE FILE, where the file may not exist
put()
{
	[ ! -e "$2" ] || echo "$1" 2>/dev/null >"$2"
}

# mkmount TYPE DEVICE DIRECTORY MKFS...: sets where[type] on success
mkmount()
{
	type=$1 dev=$2 dir=$3
	shift 3
	[ -b "$dev" ] || return 1
	mkdir -p "$dir" &&
	"$@" "$dev" >"$mnt/mkfs.log" 2>&1 &&
	mount -t "$type" "$dev" "$dir" && return 0
	echo "# cannot mount a $type on $dev:"
	sed 's/^/# /' "$mnt/mkfs.log"
	return 1
}

# nullb NAME MIB [ATTRIBUTE=VALUE...]: a null_blk device that keeps its data
nullb()
{
	dir=/sys/kernel/config/nullb/$1
	mkdir "$dir" 2>/dev/null || return 1
	put "$2" "$dir/size"
	put 1 "$dir/memory_backed"
	shift 2
	for a; do
		put "${a#*=}" "$dir/${a%%=*}"
	done
	put 1 "$dir/power"
	echo "/dev/${dir##*/}"
}

[ "$(id -u)" -eq 0 ] || die "must be root"
mib=$((1024 * 1024))

mkdir -p $mnt/bin || die "cannot make $mnt"
# From memory: a root on the network is slow to page in, and may change
for p in $programs; do
	cp "$NOPIN_BIN/$p" $mnt/bin
done
grep -q " /sys/kernel/debug " /proc/mounts ||
	mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
grep -q " /sys/kernel/config " /proc/mounts ||
	mount -t configfs configfs /sys/kernel/config 2>/dev/null

export NOPIN_RAW="${NOPIN_RAW:-$(disk nvme $((128 * mib)))}"
export NOPIN_SLOW="${NOPIN_SLOW:-$(disk vd $((96 * mib)))}"
export NOPIN_SLOW_IOPS="${NOPIN_SLOW_IOPS:-200}"
export NOPIN_SLOW_NVME="${NOPIN_SLOW_NVME:-$(disk nvme $((80 * mib)))}"
export NOPIN_CHURN="${NOPIN_CHURN:-$(disk vd $((256 * mib)))}"
disk_ext4=${NOPIN_DISK_EXT4:-$(disk vd $((512 * mib)))}
disk_xfs=${NOPIN_DISK_XFS:-$(disk nvme $((640 * mib)))}

for v in NOPIN_RAW NOPIN_SLOW NOPIN_SLOW_NVME NOPIN_CHURN; do
	eval "d=\$$v"
	if [ ! -b "$d" ]; then
		echo "# no disk for $v"
		unset $v
		continue
	fi
	# Requests go out when they come, not merged with later ones
	put none "/sys/block/${d##*/}/queue/scheduler"
done

# Everything is set up with the mode to be tested, as that is part of the test
if [ -e $nopin/direct_io ]; then
	echo "$mode" >$nopin/direct_io || die "cannot set the mode"
elif [ "$mode" = nopin ]; then
	die "this kernel has no nopin"
fi
# A process does without pins from its first I/O on, so that all of them count
put 0 $nopin/first_ios

mkmount ext4 "$disk_ext4" $mnt/ext4 mkfs.ext4 -q -F && export NOPIN_EXT4=$mnt/ext4
mkmount xfs "$disk_xfs" $mnt/xfs mkfs.xfs -q -f && export NOPIN_XFS=$mnt/xfs

# Pages move when a test says so, and nobody else waits for the I/O that it holds
put 0 /proc/sys/kernel/numa_balancing
put 0 /proc/sys/vm/compaction_proactiveness
put madvise /sys/kernel/mm/transparent_hugepage/enabled
put madvise /sys/kernel/mm/transparent_hugepage/defrag
put advise /sys/kernel/mm/transparent_hugepage/shmem_enabled
put 32 /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
free_1g=/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages
if [ -e $free_1g ] && [ "$(cat $free_1g)" -gt 0 ]; then
	export NOPIN_1G=1
fi

# Devices and file systems whose I/O is not prompt: nobody waits for it
loop_file=$mnt/ext4/loop
if [ -n "${NOPIN_EXT4:-}" ] && truncate -s 32M $loop_file; then
	NOPIN_LOOP=$(losetup -f --show $loop_file) && export NOPIN_LOOP
fi
if [ -b /dev/zram0 ]; then
	put 32M /sys/block/zram0/disksize && export NOPIN_ZRAM=/dev/zram0
fi
btrfs=$(nullb nullb-btrfs 256)
command -v mkfs.btrfs >/dev/null &&
	mkmount btrfs "${btrfs:-none}" $mnt/btrfs mkfs.btrfs -q -f &&
	export NOPIN_BTRFS=$mnt/btrfs
# By fs/direct-io.c
fat=$(nullb nullb-fat 64)
mkmount vfat "${fat:-none}" $mnt/fat mkfs.fat && export NOPIN_FAT=$mnt/fat
jfs=$(nullb nullb-jfs 64)
mkmount jfs "${jfs:-none}" $mnt/jfs mkfs.jfs -q && export NOPIN_JFS=$mnt/jfs
# A device with queues that are polled
for d in /sys/block/nvme*; do
	if [ "/dev/${d##*/}" = "$NOPIN_RAW" ] && [ "$(cat "$d/queue/io_poll")" = 1 ]; then
		export NOPIN_POLL="$NOPIN_RAW"
	fi
done
# And one that does what the device below it does
if [ -e /dev/mapper/control ] && [ -n "${NOPIN_RAW:-}" ]; then
	dmsetup --noudevsync create nopin \
		--table "0 $((64 * mib / 512)) linear $NOPIN_RAW 0" >/dev/null &&
		export NOPIN_DM=/dev/dm-0 NOPIN_DM_GATE=nopin
fi

dm_node()
{
	echo "/dev/dm-$(dmsetup info -c --noheadings -o minor "$1")"
}

# held NAME DEVICE: a device that holds what it is given while NAME-gate, which is
# below it, is suspended
held()
{
	[ -e /dev/mapper/control ] && [ -b "$2" ] || return 1
	size=$(blockdev --getsz "$2")
	dmsetup --noudevsync create "$1-gate" --table "0 $size linear $2 0" >/dev/null &&
		dmsetup --noudevsync create "$1" \
			--table "0 $size linear $(dm_node "$1-gate") 0" >/dev/null
}

if held nopin-held "${NOPIN_SLOW:-}"; then
	NOPIN_HELD=$(dm_node nopin-held) && export NOPIN_HELD NOPIN_HELD_GATE=nopin-held-gate
fi
if held nopin-fat "${NOPIN_DISK_FAT:-$(disk vd $((112 * mib)))}" &&
	mkmount vfat "$(dm_node nopin-fat)" $mnt/heldfat mkfs.fat; then
	export NOPIN_HELD_FAT=$mnt/heldfat NOPIN_HELD_FAT_GATE=nopin-fat-gate
fi

# Encryption, with swap on the same disk. Nothing of it is in use but in the test
# that wants it
crypt()
{
	key=$(printf '%0128d' 1)
	half=$(($(blockdev --getsz "$1") / 2))
	dmsetup --noudevsync create nopin-swap --table "0 $half linear $1 0" &&
	dmsetup --noudevsync create nopin-plain \
		--table "0 $half linear $1 $half" &&
	dmsetup --noudevsync create nopin-crypt --table \
		"0 $half crypt aes-xts-plain64 $key 0 $(dm_node nopin-plain) 0"
}

if [ -e /dev/mapper/control ] && [ -n "${NOPIN_CHURN:-}" ] &&
	crypt "$NOPIN_CHURN" >/dev/null; then
	NOPIN_CRYPT=$(dm_node nopin-crypt) && export NOPIN_CRYPT
	NOPIN_CRYPT_SWAP=$(dm_node nopin-swap) && export NOPIN_CRYPT_SWAP
fi

# Swap: memory, so that nothing waits for it for long
swap=$(cat /sys/class/zram-control/hot_add 2>/dev/null)
if [ -n "$swap" ] && put 512M "/sys/block/zram$swap/disksize" &&
	mkswap "/dev/zram$swap" >/dev/null && swapon "/dev/zram$swap"; then
	export NOPIN_SWAP="/dev/zram$swap"
fi

# The tests make file systems on this one
NOPIN_PMEM=${NOPIN_PMEM:-/dev/pmem0}
if [ -b "$NOPIN_PMEM" ]; then
	export NOPIN_PMEM
else
	echo "# no persistent memory"
	unset NOPIN_PMEM
fi

# A mirror: one leg has a copy of the data as it is when a request is submitted,
# the other one as it is when the throttle lets the request through. Both are the
# same as long as file systems keep pages stable while they are written, which
# the mirror asks them for. It has no metadata, and leaves the end of the throttled
# leg to those who use up the burst. The tests make file systems on it.
late=${NOPIN_MIRROR_LATE:-$(disk vd $((320 * mib)))}
unset NOPIN_MIRROR_LATE
if [ -b "$late" ] && early=$(nullb nullb-leg 320) &&
	put md_nopin /sys/module/md_mod/parameters/new_array; then
	put none "/sys/block/${late##*/}/queue/scheduler"
	md=/sys/block/md_nopin/md
	put none $md/metadata_version
	put raid1 $md/level
	put 2 $md/raid_disks
	for d in "$early" "$late"; do
		put "$(cat "/sys/block/${d##*/}/dev")" $md/new_dev
	done
	put 0 "$md/dev-${early##*/}/slot"
	put 1 "$md/dev-${late##*/}/slot"
	put writemostly "$md/dev-${late##*/}/state"
	put none $md/resync_start
	put $((312 * 1024)) $md/component_size
	put active $md/array_state
	put 1 /sys/block/md_nopin/queue/stable_writes
	if [ "$(cat $md/sync_action /sys/block/md_nopin/queue/stable_writes)" = "idle
1" ]; then
		export NOPIN_MIRROR=/dev/md_nopin
		export NOPIN_MIRROR_EARLY="$early" NOPIN_MIRROR_LATE="$late"
	fi
fi

# ---- the tests ----

pins()
{
	echo 1 >/proc/sys/vm/stat_refresh
	awk '$1 == "nr_foll_pin_acquired" { a = $2 }
	     $1 == "nr_foll_pin_released" { r = $2 }
	     END { print a - r }' /proc/vmstat
}

run_all()
{
	for p in $programs; do
		echo "@program $p"
		# Whatever the one before has set
		put 100 $nopin/rmap_wait_ms
		put never /sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled
		begin=$(date +%s)
		$mnt/bin/"$p" "$@" 2>&1
		echo "@exit $?"
		echo "# $p took $(($(date +%s) - begin)) seconds"
	done

	echo "@program run.sh"
	# A ring whose process has ended may still be on its way out
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		left=$(pins)
		[ "$left" -eq 0 ] && break
		sleep 0.5
	done
	not=
	if [ "$left" -ne 0 ]; then
		echo "# $left pins were not released"
		not="not "
	fi
	echo "${not}ok 1 pins taken are pins released"
	if [ -e $nopin/direct_io ]; then
		not="not "
		grep -qF "[$mode]" $nopin/direct_io && not=
		echo "${not}ok 2 the mode is still $mode"
		grep -s . $nopin/fallback/* | sed 's/^.*\//# fallback /'
	fi
	grep -E '^(nopin_|nr_foll_pin_)' /proc/vmstat | sed 's/^/# /'
	echo "@exit 0"
}

# One stream of the programs' streams
# shellcheck disable=SC2016
renumber='
BEGIN { print "TAP version 13" }
function result(bad, text) {
	print (bad ? "not ok " : "ok ") ++n " " text
	if (bad)
		failed++
	else if (text ~ /# SKIP/)
		skipped++
	seen++
}
$1 == "@program" {
	program = $2
	plan = seen = bad_here = 0
	next
}
$1 == "@exit" {
	# Died, or said that it failed while no test did
	if (seen < plan || ($2 != 0 && $2 != 4 && failed == before))
		result(1, program " ended early, status " $2)
	before = failed
	next
}
/^TAP version/ { next }
/^1\.\.[0-9]+/ { plan = substr($1, 4) + 0; next }
/^(not )?ok [0-9]+/ {
	bad = $1 == "not"
	sub(/^(not )?ok [0-9]+ /, "")
	result(bad, program ": " $0)
	fflush()
	next
}
/^#/ { print; fflush(); next }
/^$/ { next }
{ print "# " $0 }
END {
	print "1.." n
	printf "# %d passed, %d failed, %d skipped\n", n - failed - skipped,
		failed, skipped
	exit failed > 0
}'

tracing=/sys/kernel/tracing
if [ "$waits" ]; then
	echo 16384 >$tracing/buffer_size_kb || die "cannot trace"
	echo 1 >$tracing/events/nopin/nopin_wait/enable || die "cannot trace"
fi

# mawk waits for 4 KiB of input unless told not to
mawk=
case $(awk -W version 2>&1) in mawk*) mawk=1 ;; esac

start=$(date +%s)
run_all "$@" | awk ${mawk:+-W interactive} "$renumber"
status=$?
[ -z "$waits" ] || sed -n 's/.* event=\([^ ]*\) owner=[0-9]* us=\([0-9]*\)/# wait \1 \2/p' $tracing/trace
echo "# mode $mode: $(($(date +%s) - start)) seconds"
exit $status
