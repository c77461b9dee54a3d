#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Set up all devices and file systems with direct I/O that a virtual machine can
# have, one after the other, and run "paths" on each, with direct_io "pin" and
# "nopin". As root, in a virtual machine: disks are overwritten.
#
#	paths.sh --vm FLAVOR [NAME...]	build, and run it in one, with the disks
#	paths.sh --raw [NAME...]	only lines for paths.py, no judgement
#	paths.sh [NAME...]		TAP, by paths.py and the list paths.claims
#	paths.sh --list
#
# What cannot be set up is told as "# skip|NAME|REASON".

set -u

here=$(dirname "$(readlink -f "$0")")
mnt=/tmp/nopin-paths
nopin=/sys/kernel/mm/nopin

names="nvme nvme-char virtio scsi scsi-bsg scsi-sg pmem null_blk brd zram
	scsi_debug-dix zoned zoned-poll
	dm-linear dm-linear-loop dm-striped dm-crypt dm-mirror dm-snapshot dm-thin
	dm-integrity md-raid0 md-raid1 md-raid5
	loop loop-dio nbd ublk
	ext4 ext4-encrypted ext4-inlinecrypt ext4-dax xfs xfs-dax btrfs btrfs-nodatasum
	btrfs-zoned f2fs f2fs-zoned ext2 vfat exfat ntfs3 jfs udf overlay nfs fuse tmpfs"

usage()
{
	sed -n '8,11s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

raw=
case ${1-} in
--list)
	for n in $names; do
		echo "$n"
	done
	exit 0
	;;
--vm)
	[ $# -gt 1 ] || usage
	flavor=$2
	shift 2
	vmdir=$here/../../vm
	# shellcheck source-path=SCRIPTDIR source=../../vm/lib.sh
	. "$vmdir/lib.sh"
	make -s -C "$here" || exit 1
	# The protection of scsi_debug's disks is a matter of the command line
	# shellcheck disable=SC2086
	exec "$vmdir/run" --flavor "$flavor" --cpus 2 --mem 3G \
		--disk nvme,size=128M --disk virtio,size=128M --disk scsi,size=128M \
		--pmem 256M --timeout 1800 ${VM_RUN-} \
		--append "nvme.poll_queues=1 virtio_blk.poll_queues=1 null_blk.nr_devices=0" \
		--append "scsi_debug.dif=1 scsi_debug.dix=1 scsi_debug.dev_size_mb=64" \
		--append "brd.rd_nr=1 brd.rd_size=65536" -- \
		env NOPIN_BIN="$build/selftests" "$here/paths.sh" "$@"
	;;
--raw)
	raw=1
	shift
	;;
-*)
	usage
	;;
esac

# paths.py says what the lines are worth
if [ -z "$raw" ]; then
	"$0" --raw "$@" | "$here/paths.py" --tap "$here/paths.claims" -
	exit
fi
all=${*:-$names}
for n in $all; do
	case " $(echo "$names" | tr -s '\n\t' ' ') " in
	*" $n "*) ;;
	*) echo "paths.sh: no '$n', see --list" >&2; exit 2 ;;
	esac
done

bin=${NOPIN_BIN:-$here}
[ -x "$bin/paths" ] || bin=$here/../../../../build/selftests
for p in paths paths_serve; do
	if [ ! -x "$bin/$p" ]; then
		echo "paths.sh: no $bin/$p: run make in $here" >&2
		exit 2
	fi
done
if [ "$(id -u)" -ne 0 ] || [ ! -w $nopin/direct_io ]; then
	echo "paths.sh: must be root, on a kernel with nopin" >&2
	exit 2
fi
mkdir -p $mnt/bin $mnt/fs $mnt/base || exit 2
# From memory: nothing of the tests' own is read from the disks meanwhile
cp "$bin/paths" "$bin/paths_serve" $mnt/bin || exit 2

echo "# release|$(uname -r)"

# ---- tools ----

reason=
undo=

# Why the set-up that is going on fails; returns false
cannot()
{
	reason=$*
	return 1
}

# later COMMAND: when this set-up is torn down, the last one first
later()
{
	undo="$*
$undo"
}

# quiet COMMAND...: or its last words are the reason
quiet()
{
	"$@" >$mnt/log 2>&1 && return
	cannot "$1: $(grep -v '^$' $mnt/log | tail -n 1)"
}

# A device appears in its own time
wait_for()
{
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		[ ! -b "$1" ] || [ "$(cat "/sys/class/block/${1##*/}/size")" -eq 0 ] ||
			return 0
		sleep 0.2
	done
	cannot "no $1"
}

need()
{
	command -v "$1" >/dev/null || cannot "no command $1: run tools/testing/vm/deps"
}

# disk MATCH: sets dev to the first disk at such a place in sysfs
disk()
{
	for d in /sys/block/*; do
		case $(readlink -f "$d") in
		*/$1)
			dev=/dev/${d##*/}
			return
			;;
		esac
	done
	cannot "no disk of that kind in this machine, see paths.sh --vm"
}

# nullb NAME MIB [ATTRIBUTE=VALUE...]: sets dev to one that keeps its data
nullb()
{
	nb=/sys/kernel/config/nullb/$1
	mkdir "$nb" 2>/dev/null || { cannot "no null_blk in configfs"; return; }
	later "echo 0 >$nb/power; rmdir $nb"
	for a in "size=$2" memory_backed=1; do
		echo "${a#*=}" >"$nb/${a%%=*}"
	done
	dev=/dev/$1
	shift 2
	for a; do
		echo "${a#*=}" >"$nb/${a%%=*}" || { cannot "null_blk: no $a"; return; }
	done
	echo 1 >"$nb/power" || cannot "null_blk cannot be switched on"
}

# dm NAME TABLE: sets dev
dm()
{
	[ -e /dev/mapper/control ] || { cannot "no device mapper"; return; }
	quiet dmsetup --noudevsync create "$1" --table "$2" || return
	later "dmsetup --noudevsync remove --retry $1"
	dev=/dev/dm-$(dmsetup info -c --noheadings -o minor "$1")
}

# md LEVEL DISKS: sets dev, of as many null_blk devices, without metadata
md()
{
	md=/sys/block/md_paths/md
	legs=
	for i in $(seq "$2"); do
		nullb "leg$i" 32 || return
		legs="$legs leg$i"
	done
	echo md_paths >/sys/module/md_mod/parameters/new_array || {
		cannot "no md"
		return
	}
	later "echo clear >$md/array_state"
	echo none >$md/metadata_version
	echo "$1" >$md/level 2>/dev/null || { cannot "md has no $1"; return; }
	echo 65536 >$md/chunk_size
	echo "$2" >$md/raid_disks
	slot=0
	for l in $legs; do
		cat "/sys/block/$l/dev" >$md/new_dev
		echo $slot >"$md/dev-$l/slot"
		# Without metadata nobody has told
		[ "$1" != raid0 ] || echo $((16 * 1024)) >"$md/dev-$l/size"
		slot=$((slot + 1))
	done
	echo none >$md/resync_start 2>/dev/null
	[ "$1" = raid0 ] || echo $((16 * 1024)) >$md/component_size
	echo active >$md/array_state || { cannot "the array does not start"; return; }
	dev=/dev/md_paths
	[ "$(cat /sys/block/md_paths/size)" -gt 0 ] || cannot "the array is empty"
}

# mounted TYPE OPTIONS DEVICE [DIRECTORY]: sets dev to a file on it
mounted()
{
	dir=${4:-$mnt/fs}
	quiet mount -t "$1" -o "$2" "$3" "$dir" || return
	later "umount $dir"
	dev=$dir/data
}

# fs TYPE OPTIONS MIB MKFS...: on a null_blk device; sets dev to a file
fs()
{
	type=$1 options=$2 mib=$3
	shift 3
	need "$1" && nullb base "$mib" && quiet "$@" "$dev" && mounted "$type" "$options" "$dev"
}

# ext4 below something else, in base/
base_ext4()
{
	nullb base 128 && quiet mkfs.ext4 -q -F "$dev" && mounted ext4 noatime "$dev" $mnt/base
}

# serve ARGUMENT...: until torn down
serve()
{
	$mnt/bin/paths_serve "$@" 2>$mnt/log &
	server=$!
	later "{ kill $server; wait $server; } 2>/dev/null"
}

# ---- what is set up: each sets dev, and groups if it is not read() and write() ----

set_up()
{
	case $1 in
	nvme)
		disk 'nvme/*' && groups="file poll nvme-ioctl"
		;;
	nvme-char)
		disk 'nvme/*' || return
		dev=/dev/ng${dev#/dev/nvme} groups="nvme-ioctl nvme"
		[ -c "$dev" ] || cannot "no $dev"
		;;
	virtio)
		disk 'virtio*/block/vd*'
		;;
	scsi)
		disk 'virtio*/host*/block/sd*' && groups="file poll sg"
		;;
	scsi-bsg)
		disk 'virtio*/host*/block/sd*' || return
		h=$(readlink -f "/sys/block/${dev#/dev/}/device")
		dev=/dev/bsg/${h##*/} groups=bsg
		[ -c "$dev" ] || cannot "no $dev"
		;;
	scsi-sg)
		disk 'virtio*/host*/block/sd*' || return
		for d in "/sys/block/${dev#/dev/}"/device/scsi_generic/sg*; do
			dev=/dev/${d##*/}
		done
		groups="sg sg-direct"
		# Otherwise the flag for direct I/O is ignored
		[ -c "$dev" ] || { cannot "no sg"; return; }
		echo 1 >/proc/scsi/sg/allow_dio
		;;
	pmem)
		dev=/dev/pmem0
		[ -b $dev ] || cannot "no $dev, see paths.sh --vm"
		;;
	null_blk)
		nullb base 64 poll_queues=1 || return
		;;
	brd)
		dev=/dev/ram0
		[ -b $dev ] || cannot "no $dev"
		;;
	zram)
		n=$(cat /sys/class/zram-control/hot_add 2>/dev/null) || {
			cannot "no zram"
			return
		}
		later "echo $n >/sys/class/zram-control/hot_remove"
		dev=/dev/zram$n
		echo 64M >"/sys/block/zram$n/disksize"
		;;
	scsi_debug-dix)
		drv=/sys/bus/pseudo/drivers/scsi_debug
		[ "$(cat $drv/dix 2>/dev/null)" = 1 ] || {
			cannot "scsi_debug has no protection, see paths.sh --vm"
			return
		}
		echo 0 >$drv/delay
		echo 1 >$drv/add_host
		later "echo -1 >$drv/add_host"
		for _ in 1 2 3 4 5 6 7 8 9 10; do
			! disk 'pseudo*/block/sd*' || break
			sleep 0.5
		done
		reason=
		wait_for "$dev" || return
		[ "$(cat "/sys/block/${dev#/dev/}/integrity/format")" = T10-DIF-TYPE1-CRC ] ||
			cannot "the disk has no protection information"
		;;
	zoned)
		nullb base 256 zoned=1 zone_size=64 zone_nr_conv=0
		groups="file"
		;;
	zoned-poll)
		# bi_cookie and the segments of a bio that waits for its zone are a union
		cannot "bio_poll() of a write to a zone crashes 6.12, stock or not"
		;;

	dm-linear)
		nullb base 64 && dm paths "0 65536 linear $dev 0"
		;;
	dm-linear-loop)
		set_up loop && dm paths "0 65536 linear $dev 0"
		;;
	dm-striped)
		nullb leg1 32 && nullb leg2 32 &&
			dm paths "0 65536 striped 2 16 /dev/leg1 0 /dev/leg2 0"
		;;
	dm-crypt)
		# Polled, its requests time out in stock kernels: nobody polls the clones
		nullb base 64 poll_queues=0 &&
			dm paths "0 65536 crypt aes-xts-plain64 $(printf %0128d 1) 0 $dev 0"
		;;
	dm-mirror)
		nullb leg1 32 && nullb leg2 32 &&
			dm paths "0 65536 mirror core 2 1024 nosync 2 /dev/leg1 0 /dev/leg2 0"
		;;
	dm-snapshot)
		nullb base 64 && nullb cow 64 &&
			dm paths-origin "0 65536 snapshot-origin /dev/base" &&
			dm paths "0 65536 snapshot /dev/base /dev/cow N 8"
		;;
	dm-thin)
		nullb meta 16 && nullb base 64 &&
			dm paths-pool "0 131072 thin-pool /dev/meta /dev/base 128 0" &&
			quiet dmsetup message paths-pool 0 "create_thin 0" &&
			dm paths "0 65536 thin $dev 0"
		;;
	dm-integrity)
		nullb base 64 &&
			dm paths "0 65536 integrity $dev 0 4 D 1 internal_hash:crc32c"
		;;
	md-raid0)
		md raid0 2
		;;
	md-raid1)
		md raid1 2
		;;
	md-raid5)
		md raid5 3
		;;

	loop | loop-dio)
		base_ext4 && quiet truncate -s 64M $mnt/base/image || return
		case $1 in
		loop) direct=off dio=0 ;;
		*) direct=on dio=1 ;;
		esac
		dev=$(losetup -f --show --direct-io=$direct $mnt/base/image) || {
			cannot "no loop device"
			return
		}
		later "losetup -d $dev"
		[ "$(cat "/sys/block/${dev#/dev/}/loop/dio")" = $dio ] ||
			cannot "losetup cannot set direct I/O $direct"
		;;
	nbd)
		dev=/dev/nbd0
		[ -b $dev ] || { cannot "no $dev"; return; }
		serve nbd $dev
		wait_for $dev
		;;
	ublk)
		[ -e /dev/ublk-control ] || { cannot "no ublk"; return; }
		serve ublk 0
		dev=/dev/ublkb0
		wait_for $dev || cannot "no $dev: $(cat $mnt/log)"
		;;

	ext4)
		fs ext4 defaults 128 mkfs.ext4 -q -F
		;;
	ext4-encrypted | ext4-inlinecrypt)
		options=defaults
		[ "$1" = ext4-encrypted ] || options=inlinecrypt
		fs ext4 $options 128 mkfs.ext4 -q -F -O encrypt &&
			quiet $mnt/bin/paths_serve encrypt $mnt/fs/secret || return
		dev=$mnt/fs/secret/data
		;;
	ext4-dax)
		set_up pmem && quiet mkfs.ext4 -q -F -b 4096 "$dev" &&
			mounted ext4 dax=always "$dev"
		;;
	xfs)
		fs xfs defaults 400 mkfs.xfs -q -f
		;;
	xfs-dax)
		set_up pmem && quiet mkfs.xfs -q -f -m reflink=0 --unsupported "$dev" &&
			mounted xfs dax=always "$dev"
		;;
	btrfs)
		fs btrfs defaults 256 mkfs.btrfs -q -f
		;;
	btrfs-nodatasum)
		fs btrfs nodatasum 256 mkfs.btrfs -q -f
		;;
	btrfs-zoned)
		need mkfs.btrfs && nullb base 1024 zoned=1 zone_size=64 zone_nr_conv=0 &&
			quiet mkfs.btrfs -q -f -O zoned -d single -m single "$dev" &&
			mounted btrfs nodatasum "$dev"
		;;
	f2fs)
		fs f2fs defaults 128 mkfs.f2fs -q -f
		;;
	f2fs-zoned)
		need mkfs.f2fs && nullb base 2048 zoned=1 zone_size=16 zone_nr_conv=8 &&
			quiet mkfs.f2fs -f -m "$dev" && mounted f2fs defaults "$dev"
		;;
	ext2)
		fs ext2 defaults 64 mkfs.ext2 -q -F
		;;
	vfat)
		fs vfat defaults 64 mkfs.vfat -F 32
		;;
	exfat)
		fs exfat defaults 64 mkfs.exfat
		;;
	ntfs3)
		fs ntfs3 defaults 64 mkfs.ntfs -q -Q -F
		;;
	jfs)
		fs jfs defaults 64 mkfs.jfs -q
		;;
	udf)
		fs udf defaults 64 mkfs.udf -b 512
		;;
	overlay)
		base_ext4 && mkdir $mnt/base/lower $mnt/base/upper $mnt/base/work &&
			mounted overlay "lowerdir=$mnt/base/lower,upperdir=$mnt/base/upper,workdir=$mnt/base/work" none
		;;
	nfs)
		nfs
		;;
	fuse)
		serve fuse $mnt/fs
		later "umount $mnt/fs"
		dev=$mnt/fs/data
		for _ in 1 2 3 4 5 6 7 8 9 10; do
			[ ! -f $dev ] || return 0
			sleep 0.2
		done
		cannot "no FUSE: $(cat $mnt/log)"
		;;
	tmpfs)
		mounted tmpfs size=32M none
		;;
	esac
}

# A server for this machine itself, which exports an ext4. What mountd would answer
# is in the kernel's caches before it can ask, so that no daemon is needed.
nfs()
{
	grep -q nfsd /proc/filesystems || { cannot "no nfsd in this kernel"; return; }
	base_ext4 || return
	quiet mount -t nfsd nfsd /proc/fs/nfsd || return
	later "umount /proc/fs/nfsd"
	forever=2147483647
	echo "-2 -3 +4" >/proc/fs/nfsd/versions 2>/dev/null
	echo "nfsd 127.0.0.1 $forever paths" >/proc/net/rpc/auth.unix.ip/channel
	# The root of the export: fsid 0. Flags: insecure port, no subtree check, fsid
	echo "paths $mnt/base $forever $((0x2402)) 65534 65534 0" \
		>/proc/net/rpc/nfsd.export/channel
	printf '%s\n' "paths 1 \\x00000000 $forever $mnt/base" \
		>/proc/net/rpc/nfsd.fh/channel
	mkdir $mnt/recovery
	later "rm -r $mnt/recovery"
	echo $mnt/recovery >/proc/fs/nfsd/nfsv4recoverydir
	echo "tcp 2049" >/proc/fs/nfsd/portlist || { cannot "no port for nfsd"; return; }
	later "echo 0 >/proc/fs/nfsd/threads"
	echo 2 >/proc/fs/nfsd/threads || { cannot "nfsd does not start"; return; }
	# Nobody has anything to reclaim
	echo Y >/proc/fs/nfsd/v4_end_grace || { cannot "nfsd does not end its grace period"; return; }
	while [ "$(cat /proc/fs/nfsd/v4_end_grace)" != Y ]; do
		sleep 0.1
	done
	later "echo 1 >/proc/net/rpc/nfsd.export/flush; echo 1 >/proc/net/rpc/nfsd.fh/flush"
	quiet mount -i -t nfs4 127.0.0.1:/ $mnt/fs -o \
		vers=4.0,proto=tcp,addr=127.0.0.1,clientaddr=127.0.0.1,sec=sys || return
	later "umount $mnt/fs"
	dev=$mnt/fs/data
}

# ---- run ----

run_mode()
{
	echo "$1" >$nopin/direct_io || exit 2
	shift
	# shellcheck disable=SC2086
	$mnt/bin/paths "$1" "$dev" $groups 2>&1
}

pins()
{
	echo 1 >/proc/sys/vm/stat_refresh
	awk '$1 == "nr_foll_pin_acquired" { a = $2 }
	     $1 == "nr_foll_pin_released" { r = $2 }
	     END { print a - r }' /proc/vmstat
}

before=$(cat $nopin/direct_io) first_ios=$(cat $nopin/first_ios)
# A process does without pins from its first I/O on: paths does a few of a kind
echo 0 >$nopin/first_ios || exit 2
for name in $all; do
	begin=$(date +%s) start=$(pins)
	dev='' groups='' reason='' undo=''
	if set_up "$name"; then
		for mode in pin nopin; do
			run_mode $mode "$name" || echo "# fail|$name|paths ended with $? ($mode)"
		done
	else
		echo "# skip|$name|${reason:-the set-up fails}"
	fi
	# Before something is gone that it may show in: a ring of a process that has
	# ended may still be on its way out
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		left=$(($(pins) - start))
		[ "$left" -ne 0 ] || break
		sleep 0.2
	done
	echo "# left|$name|$left"
	eval "$undo" >$mnt/log 2>&1
	sed "s/^/# $name: tearing it down: /" $mnt/log
	echo "# $name took $(($(date +%s) - begin)) s"
done
case $before in
*"[pin]"*) echo pin >$nopin/direct_io ;;
*) echo nopin >$nopin/direct_io ;;
esac
echo "$first_ios" >$nopin/first_ios

if [ $# -eq 0 ]; then
	echo "# end|all"
else
	echo "# end|some"
fi
