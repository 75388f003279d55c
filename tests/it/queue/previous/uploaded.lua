-- Records that the input of a job is in storage. ARGV: id.
-- Returns QUEUED, the state of a job that did not wait for it, or UNKNOWN. A job that failed
-- because its upload was late is revived: a PUT that started in time may end at any time.
local id = ARGV[2]
local s = redis.call('HMGET', status(id), 'state', 'boost', 'epoch', 'overdue')
if not s[1] then return { 'UNKNOWN' } end
-- No attempt started and the job failed, but not because of its deadline: only expire.lua does
-- that.
local late = s[1] == 'failed' and s[3] == '0' and (s[4] or '') == ''
if s[1] ~= 'uploading' and not late then return { 'ALREADY', s[1] } end
local ms = event(id, 'queued')
local rank = ms - tonumber(s[2])
redis.call('HSET', status(id), 'state', 'queued', 'uploaded', ms, 'queued', ms, 'rank', rank)
if late then
  redis.call('HSET', status(id), 'error', '', 'finished', '')
  redis.call('PERSIST', status(id))
  redis.call('ZREM', dead, id)
end
redis.call('ZREM', uploading, id)
redis.call('ZADD', pending, rank, id)
ring(id)
return { 'QUEUED' }
