-- Queues a failed or cancelled job again, with its attempts counted from zero. ARGV: id, and the token that asks for it, with
-- its limits (see over_limit), or nothing.
-- Returns QUEUED, WRONG with the job's state, NEVER_UPLOADED, LIMIT as submit.lua does, or UNKNOWN.
local id = ARGV[2]
local s = redis.call('HMGET', status(id), 'state', 'boost', 'epoch', 'overdue', 'split', 'uploaded', 'owner', 'spec', 'class')
if not s[1] then return { 'UNKNOWN' } end
if s[1] ~= 'failed' and s[1] ~= 'cancelled' then return { 'WRONG', s[1] } end
-- Its upload never arrived (expire.lua; cancel.lua), so there is nothing to retry.
local from = s[4] or ''
if s[3] == '0' and (from == 'uploading' or s[1] == 'failed' and from == '') then return { 'NEVER_UPLOADED' } end
local owner = ARGV[3]
if owner ~= '' then
  local now = clock()
  local limit, wait, ended = over_limit(owner, ARGV[4], ARGV[5], ARGV[6], now)
  if limit then return { 'LIMIT', limit, wait } end
  count_job(owner, id, now, ARGV[5], ended)
end
local ms = event(id, 'queued')
local rank = ms - tonumber(s[2])
local class = s[9] or ''
on_error(function() pcall(dequeue, class, id) end)
enqueue(class, rank, id)
redis.call('ZREM', s[1] == 'failed' and dead or cancelled, id)
undo = {}
-- A new epoch gives the next delivery a unique name, even if the job ends again before any claim. It is also that of
-- the webhooks about a failure from now on (life): a failover that forgets one does not give the next another id.
local epoch = tonumber(s[3]) + 1
redis.call('HSET', status(id), 'state', 'queued', 'attempt', 0, 'epoch', epoch, 'life', epoch, 'error', '',
  'finished', '', 'retry', '', 'suspended', '', 'overdue', '', 'verify', '', 'playable', '', 'queued', ms, 'rank', rank, 'progress', 0)
-- An upload cannot be replaced. Any other object may have been, to retry the job with it.
local is_read, spec = pcall(cjson.decode, s[8] or '')
local is_upload = (s[6] or '') ~= '' and not (is_read and type(spec) == 'table' and spec.origin == 'storage')
if not is_upload then redis.call('HDEL', status(id), 'input_version') end
redis.call('HDEL', status(id), 'ignored')
-- Somebody else may retry it.
count_as_open_again(s[7] or '', id)
redis.call('PERSIST', status(id))
-- It was ended by a version that knows no parts.
if s[5] and s[5] ~= '' then
  clean_up_attempt(id, s[5], by_clock(ms))
  redis.call('HSET', status(id), 'split', '')
  drop_parts(id)
end
ring(class, id)
return { 'QUEUED' }
