/* test_memfile_zip.c: compressed memory files: there and back, and everything that can be wrong with one. */
#include "memfile_rig.h"

#include <zlib.h>

#include "migration/memfile_zip.h"

static struct memfile_stats zip(struct vm *vm, int fd)
{
	struct memfile_stats stats;
	struct err e = {0};

	if (memfile_write_compressed(vm, fd, &stats, &e) < 0)
		fail_msg("%s", e.msg);
	return stats;
}

static int unzip(struct vm *vm, int fd, struct err *e)
{
	return memfile_read_compressed(vm, fd, e);
}

static u8 *bytes_of(int fd, u64 *len)
{
	u8 *bytes;

	*len = length_of(fd);
	bytes = xzalloc(*len);
	assert_int_equal(pread(fd, bytes, *len, 0), *len);
	return bytes;
}

static void put_bytes(int fd, const u8 *bytes, u64 len)
{
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(pwrite(fd, bytes, len, 0), len);
}

static void fix_header(u8 *b)
{
	st_le32(b + 60, (u32)crc32_z(0, b, 60));
}

/* Makes the checksums right that cover what was changed. */
static void fix_all(u8 *b, u64 len)
{
	u64 offset = ld_le64(b + 32), index = ld_le64(b + 24) * 8;

	if (offset <= len && index <= len - offset)
		st_le32(b + 40, (u32)crc32_z(0, b + offset, index));
	fix_header(b);
}

static void memory_comes_back_as_it_was(void **state)
{
	struct vm *vm = new_vm(), *again = new_vm();
	struct memfile_stats stats;
	int fd = temp_fd();
	u64 bytes, len;
	u8 byte;
	struct err e = {0};

	(void)state;
	fill(vm, 1);
	memset(at(vm, 2 * MIB), 0x41, 16 * PAGE); /* compresses well */
	stats = zip(vm, fd);
	len = length_of(fd);
	assert_int_equal(stats.pages, 25);
	assert_int_equal(stats.zero_pages, 1);
	assert_int_equal(stats.bytes, len);
	assert_in_range(len, 7 * PAGE / 2, 9 * PAGE);
	assert_int_not_equal(len % PAGE, 0);
	assert_int_equal(memfile_probe(fd, &bytes, &e), 1);
	assert_int_equal(bytes, MF_SIZE);
	if (unzip(again, fd, &e) < 0)
		fail_msg("%s", e.msg);
	check_same(vm, again);
	assert_int_equal(memfile_head(fd, &byte, 1, &e), 0);
	assert_int_equal(byte, *at(vm, 0));
	assert_int_equal(memfile_map(again, fd, false, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "compressed"));
	close(fd);
	free_vm(vm);
	free_vm(again);
}

static void untouched_memory_is_a_header_and_an_index(void **state)
{
	struct vm *vm = new_vm(), *again = new_vm();
	int fd = temp_fd();
	struct stat st;
	struct err e;

	(void)state;
	zip(vm, fd);
	assert_int_equal(length_of(fd), MEMZIP_HEADER_SIZE + MF_SIZE / MEMZIP_CHUNK * 8);
	assert_int_equal(unzip(again, fd, &e), 0);
	assert_int_equal(fstat(again->mem.fd, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	close(fd);
	free_vm(vm);
	free_vm(again);
}

static void bytes_that_do_not_compress_are_kept_plain(void **state)
{
	struct vm *vm = new_vm(), *again = new_vm();
	int fd = temp_fd(), random = open("/dev/urandom", O_RDONLY);
	struct err e;

	(void)state;
	for (u64 done = 0; done < 8 * MIB;)
		done += (u64)read(random, vm->mem.regions[0].hva + done, 8 * MIB - done);
	zip(vm, fd);
	assert_in_range(length_of(fd), 8 * MIB, 8 * MIB + 4096);
	assert_int_equal(unzip(again, fd, &e), 0);
	check_same(vm, again);
	close(random);
	close(fd);
	free_vm(vm);
	free_vm(again);
}

/* The length of a plain file is whole pages; that of a compressed one never. */
static void no_length_is_that_of_a_plain_file(void **state)
{
	struct vm *vm = new_vm(), *again = new_vm();
	int fd = temp_fd();
	bool exact = false;
	struct err e;

	(void)state;
	/* Header, index and one chunk, of bytes that hardly compress: some length gives 4096. */
	for (u32 len = 1600; len < 2000 && !exact; len++) {
		for (u32 seed = len, i = 0; i < len; i++)
			at(vm, 0)[i] = (u8)((seed = seed * 1664525 + 1013904223) >> 24);
		assert_int_equal(ftruncate(fd, 0), 0);
		zip(vm, fd);
		assert_int_not_equal(length_of(fd) % PAGE, 0);
		exact = length_of(fd) == PAGE + 8;
	}
	assert_true(exact);
	assert_int_equal(unzip(again, fd, &e), 0);
	check_same(vm, again);
	close(fd);
	free_vm(vm);
	free_vm(again);
}

static void a_guest_cannot_pass_its_memory_off_as_a_compressed_file(void **state)
{
	struct vm *vm = new_vm(), *again = new_vm();
	int fd = temp_fd();
	u64 len, bytes;
	u8 *packed;
	struct err e;

	(void)state;
	zip(vm, fd);
	packed = bytes_of(fd, &len);
	memcpy(at(vm, 0), packed, len);
	assert_int_equal(ftruncate(fd, 0), 0);
	save(vm, fd);
	assert_int_equal(memfile_probe(fd, &bytes, &e), 0);
	assert_int_equal(memfile_map(again, fd, false, &e), 0);
	check_same(vm, again);
	free(packed);
	close(fd);
	free_vm(vm);
	free_vm(again);
}

/* ---- hostile ones ---- */

/* A small file: one VM of MF_SIZE, of which a few chunks are used. */
static u8 *sample(u64 *len)
{
	struct vm *vm = new_vm();
	int fd = temp_fd();
	u8 *bytes;

	fill(vm, 9);
	zip(vm, fd);
	bytes = bytes_of(fd, len);
	close(fd);
	free_vm(vm);
	return bytes;
}

static void a_file_cut_off_anywhere_is_refused(void **state)
{
	struct vm *vm = new_vm();
	int fd = temp_fd();
	u64 len, size;
	u8 *bytes = sample(&len);
	struct err e;

	(void)state;
	put_bytes(fd, bytes, len);
	for (size = len - 1; size > 0; size -= size > 4096 && size < ld_le64(bytes + 32) ? 61 : 1) {
		u64 memory;

		assert_int_equal(ftruncate(fd, (off_t)size), 0);
		assert_int_equal(unzip(vm, fd, &e), -EINVAL);
		/* What is left may be whole pages: then it is too small a plain one. */
		assert_true(memfile_probe(fd, &memory, &e) < 0 || memory < MF_SIZE);
		assert_true(memfile_map(vm, fd, false, &e) < 0);
	}
	put_bytes(fd, bytes, len);
	assert_int_equal(pwrite(fd, "", 1, (off_t)len), 1);
	assert_int_equal(unzip(vm, fd, &e), -EINVAL); /* longer, too */
	free(bytes);
	close(fd);
	free_vm(vm);
}

static void every_flipped_bit_is_found_or_changes_nothing(void **state)
{
	struct vm *vm = new_vm(), *good = new_vm();
	u32 tried = 0, found = 0;
	int fd = temp_fd();
	u64 len, index;
	u8 *bytes = sample(&len);
	u32 seed = 1;
	struct err e;

	(void)state;
	fill(good, 9);
	put_bytes(fd, bytes, len);
	index = ld_le64(bytes + 32);
	for (u64 bit = 0; bit < len * 8; bit++) {
		u8 bad = (u8)(bytes[bit / 8] ^ 1 << bit % 8);

		/* All of the header, samples of chunks and index. */
		seed = seed * 1664525 + 1013904223;
		if (bit / 8 >= MEMZIP_HEADER_SIZE && seed >> (bit / 8 < index ? 22 : 29))
			continue;
		assert_int_equal(pwrite(fd, &bad, 1, (off_t)(bit / 8)), 1);
		tried++;
		/* zlib leaves bits between its last block and its checksum that mean nothing. */
		if (unzip(vm, fd, &e) == 0)
			check_same(vm, good);
		else
			found++;
		assert_int_equal(pwrite(fd, bytes + bit / 8, 1, (off_t)(bit / 8)), 1);
	}
	assert_in_range(found, tried - 20, tried);
	free(bytes);
	close(fd);
	free_vm(vm);
	free_vm(good);
}

/* Numbers that lie, under checksums that are right. */
static void numbers_that_lie_are_refused(void **state)
{
	static const u64 lies[] = {0,	      1,     7,		 63,	     64,	 65,	     4095,	4096,	    65535,
				   65536,     65537, 1ull << 20, 1ull << 21, UINT32_MAX, 1ull << 32, INT64_MAX, 1ull << 63, UINT64_MAX - 7,
				   UINT64_MAX};
	static const struct {
		u32 offset, size;
	} fields[] = {{8, 4}, {12, 4}, {16, 8}, {24, 8}, {32, 8}};
	struct vm *vm = new_vm();
	int fd = temp_fd();
	u64 len;
	u8 *bytes = sample(&len), *bad = xzalloc(len);
	struct err e;

	(void)state;
	for (u32 f = 0; f < ARRAY_SIZE(fields); f++) {
		for (u32 i = 0; i < ARRAY_SIZE(lies); i++) {
			u64 memory;

			memcpy(bad, bytes, len);
			memcpy(bad + fields[f].offset, &lies[i], fields[f].size);
			if (!memcmp(bad, bytes, len))
				continue; /* the truth */
			fix_all(bad, len);
			put_bytes(fd, bad, len);
			assert_int_equal(unzip(vm, fd, &e), -EINVAL);
			assert_int_equal(memfile_probe(fd, &memory, &e), -EINVAL);
		}
	}
	free(bad);
	free(bytes);
	close(fd);
	free_vm(vm);
}

/* Of a file that is mostly a hole nobody knows yet whether its memory is the VM's: it must not cost what its header says. */
static void the_beginning_is_read_however_long_the_index_is(void **state)
{
	int fd = temp_fd();
	u64 len, index, nr = BIT(30), memory;
	u8 *bytes = sample(&len), head[32];
	struct vm *vm = new_vm();
	struct err e = {0};

	(void)state;
	fill(vm, 9);
	index = ld_le64(bytes + 32);
	st_le64(bytes + 16, nr * MEMZIP_CHUNK);
	st_le64(bytes + 24, nr);
	fix_header(bytes);
	put_bytes(fd, bytes, len);
	assert_int_equal(ftruncate(fd, (off_t)(index + nr * 8)), 0);
	assert_int_equal(memfile_probe(fd, &memory, &e), 1);
	assert_int_equal(memory, nr * MEMZIP_CHUNK);
	if (memfile_head(fd, head, sizeof(head), &e) < 0)
		fail_msg("%s", e.msg);
	assert_memory_equal(head, at(vm, 0), sizeof(head));
	assert_int_equal(unzip(vm, fd, &e), -EINVAL);
	/* The one entry that is looked at is believed as little as all of them. */
	st_le32(bytes + index, 0x7fffffff);
	put_bytes(fd, bytes, len);
	assert_int_equal(ftruncate(fd, (off_t)(index + nr * 8)), 0);
	assert_int_equal(memfile_head(fd, head, sizeof(head), &e), -EINVAL);
	free(bytes);
	close(fd);
	free_vm(vm);
}

static void lengths_of_chunks_that_lie_are_refused(void **state)
{
	static const u32 lies[] = {0, 1, 65535, 65536, 65537, MEMZIP_PLAIN, MEMZIP_PLAIN | 1, MEMZIP_PLAIN | 65536, 0x7fffffff, UINT32_MAX};
	struct vm *vm = new_vm();
	int fd = temp_fd();
	u64 len, index;
	u8 *bytes = sample(&len), *bad = xzalloc(len);
	struct err e;

	(void)state;
	index = ld_le64(bytes + 32);
	for (u64 chunk = 0; chunk < MF_SIZE / MEMZIP_CHUNK; chunk++) {
		for (u32 i = 0; i < ARRAY_SIZE(lies); i++) {
			memcpy(bad, bytes, len);
			st_le32(bad + index + chunk * 8, lies[i]);
			if (!memcmp(bad, bytes, len))
				continue;
			fix_all(bad, len);
			put_bytes(fd, bad, len);
			assert_int_equal(unzip(vm, fd, &e), -EINVAL);
		}
	}
	free(bad);
	free(bytes);
	close(fd);
	free_vm(vm);
}

/* A chunk that holds more, or less, than 64 KiB; and one with bytes behind its end. */
static void a_chunk_that_inflates_to_another_length_is_refused(void **state)
{
	static const u64 lengths[] = {0, 1, MEMZIP_CHUNK - 1, MEMZIP_CHUNK + 1, 8 * MIB};
	struct vm *vm = new_vm();
	int fd = temp_fd();
	struct err e;

	(void)state;
	for (u32 i = 0; i <= ARRAY_SIZE(lengths); i++) {
		u64 nr = MF_SIZE / MEMZIP_CHUNK, inside = i < ARRAY_SIZE(lengths) ? lengths[i] : MEMZIP_CHUNK;
		auto_free u8 *plain = xzalloc(inside + 1), *file = xzalloc(MEMZIP_HEADER_SIZE + 64 * KIB + nr * 8);
		uLongf packed = 60 * KIB;

		memset(plain, 0x42, inside);
		assert_int_equal(compress(file + MEMZIP_HEADER_SIZE, &packed, plain, inside), Z_OK);
		packed += i == ARRAY_SIZE(lengths) ? 5 : 0; /* behind its end */
		memcpy(file, MEMZIP_MAGIC, 8);
		st_le32(file + 8, 1);
		st_le32(file + 12, MEMZIP_CHUNK);
		st_le64(file + 16, MF_SIZE);
		st_le64(file + 24, nr);
		st_le64(file + 32, MEMZIP_HEADER_SIZE + packed);
		st_le32(file + MEMZIP_HEADER_SIZE + packed, (u32)packed);
		st_le32(file + MEMZIP_HEADER_SIZE + packed + 4, (u32)crc32_z(0, plain, MIN(inside, MEMZIP_CHUNK)));
		fix_all(file, MEMZIP_HEADER_SIZE + packed + nr * 8);
		put_bytes(fd, file, MEMZIP_HEADER_SIZE + packed + nr * 8);
		assert_int_equal(unzip(vm, fd, &e), -EINVAL);
		assert_non_null(strstr(e.msg, "chunk 0"));
	}
	close(fd);
	free_vm(vm);
}

static void memory_of_another_size_is_refused_before_its_index_is_read(void **state)
{
	const struct mem_range range = {0, 2 * MIB};
	struct vm *vm = xzalloc(sizeof(*vm));
	int fd = temp_fd();
	u64 len;
	u8 *bytes = sample(&len);
	struct err e;

	(void)state;
	assert_int_equal(mem_init(&vm->mem, &range, 1, MEM_HUGE_NONE, &e), 0);
	put_bytes(fd, bytes, len);
	assert_int_equal(unzip(vm, fd, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "14680064"));
	assert_non_null(strstr(e.msg, "2097152"));
	free(bytes);
	close(fd);
	free_vm(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_comes_back_as_it_was),
		cmocka_unit_test(untouched_memory_is_a_header_and_an_index),
		cmocka_unit_test(bytes_that_do_not_compress_are_kept_plain),
		cmocka_unit_test(no_length_is_that_of_a_plain_file),
		cmocka_unit_test(a_guest_cannot_pass_its_memory_off_as_a_compressed_file),
		cmocka_unit_test(a_file_cut_off_anywhere_is_refused),
		cmocka_unit_test(every_flipped_bit_is_found_or_changes_nothing),
		cmocka_unit_test(numbers_that_lie_are_refused),
		cmocka_unit_test(the_beginning_is_read_however_long_the_index_is),
		cmocka_unit_test(lengths_of_chunks_that_lie_are_refused),
		cmocka_unit_test(a_chunk_that_inflates_to_another_length_is_refused),
		cmocka_unit_test(memory_of_another_size_is_refused_before_its_index_is_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
