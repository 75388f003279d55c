-- Records that the input of a job is in storage. ARGV: id, the size of the input in bytes, its entity tag ('': not known),
-- the failure of the job if its input is larger than workers take ('': it is not, or the limit is not known), the
-- failure if its input has another size than was announced, and the key of the object.
-- Returns QUEUED, REFUSED (the job has failed with one of the failures), ALREADY with the state of a job that did not
-- wait for it, OTHER (the job waits for another object), or UNKNOWN. A job that failed because its upload was late, or was
-- refused, is revived by one that it can use: a PUT that started in time may end at any time.
local id, size, version, failure = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local s = redis.call('HMGET', status(id), 'state', 'boost', 'epoch', 'overdue', 'spec', 'hook', 'keep', 'keep_input',
  'keep_outputs', 'owner', 'class')
if not s[1] then return { 'UNKNOWN' } end
-- No attempt started and the job failed, but not because of its deadline: only expire.lua and this script do
-- that.
local late = s[1] == 'failed' and s[3] == '0' and (s[4] or '') == ''
if s[1] ~= 'uploading' and not late then return { 'ALREADY', s[1] } end
local is_read, spec = pcall(cjson.decode, s[5] or '')
if is_read and type(spec) == 'table' then
  if spec.inputKey ~= ARGV[7] then return { 'OTHER' } end
  if failure == '' and type(spec.fileSize) == 'number' and spec.fileSize ~= size then failure = ARGV[6] end
end
if failure ~= '' then
  if late then return { 'ALREADY', s[1] } end
  fail_upload(id, failure, s[6], s[7], s[8], s[9])
  return { 'REFUSED' }
end
local ms = event(id, 'queued')
local rank = ms - tonumber(s[2])
local class = s[11] or ''
on_error(function() pcall(dequeue, class, id) end)
enqueue(class, rank, id)
redis.call('ZREM', uploading, id)
if late then redis.call('ZREM', dead, id) end
undo = {}
redis.call('HSET', status(id), 'state', 'queued', 'uploaded', ms, 'queued', ms, 'rank', rank, 'input_version', version)
if late then
  -- A new epoch gives the next delivery a unique name.
  redis.call('HSET', status(id), 'error', '', 'finished', '', 'epoch', 1, 'life', 1)
  redis.call('PERSIST', status(id))
  count_as_open_again(s[10] or '', id)
end
ring(class, id)
return { 'QUEUED' }
