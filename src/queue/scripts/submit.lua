-- A new job. ARGV: id, how (queued|uploading|delayed), ms until due (upload window or delay), spec,
-- max attempts, boost ms, hook flag, retention ms, submitted at (the caller's clock, for the listing).
-- Returns CREATED, or EXISTS with the spec that stands there.
local id, how, wait, spec = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local max, boost, hook, keep, at = ARGV[6], tonumber(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]
-- The job itself is the guard: the index is trimmed, and may have lost a job that is still alive.
if redis.call('HSETNX', status(id), 'spec', spec) == 0 then
  return { 'EXISTS', redis.call('HGET', status(id), 'spec') }
end
local state = how == 'uploading' and 'uploading' or 'queued'
local ms = event(id, state)
local rank = ms - boost
redis.call('HSET', status(id), 'state', state, 'max', max, 'boost', boost, 'hook', hook,
  'keep', keep, 'created', ms, 'rank', rank, 'attempt', 0, 'epoch', 0,
  'queued', how == 'queued' and ms or '', 'retry', how == 'delayed' and ms + wait or '')
redis.call('ZADD', index, at, id)
if how == 'uploading' then
  redis.call('ZADD', uploading, ms + wait, id)
elseif how == 'delayed' then
  redis.call('ZADD', scheduled, ms + wait, id)
  ring(id)
else
  redis.call('ZADD', pending, rank, id)
  ring(id)
end
return { 'CREATED', ms }
