-- Submits a job. ARGV: id, how (queued|uploading|delayed), ms until due (upload window or delay),
-- spec, max attempts, boost ms, hook flag, for how many ms its record is kept after its end, submitted at
-- (the caller's clock, for the listing), the trace that it belongs to, or nothing, for how many ms its
-- input and its outputs are kept ('': for ever), the class of the workers that may run it ('': the default one), and the
-- token by which it is submitted, with its limits (see over_limit), or nothing.
-- Returns CREATED, EXISTS with the spec of the existing job and its token, or LIMIT with the limit of the token that is
-- reached and the ms until another job may be submitted.
local id, how, wait, spec = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local max, boost, hook, keep, at = ARGV[6], tonumber(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]
local class, owner = ARGV[14], ARGV[15]
local now, ended = owner ~= '' and clock(), {}
if owner ~= '' and redis.call('EXISTS', status(id)) == 0 then
  local limit, wait
  limit, wait, ended = over_limit(owner, ARGV[16], ARGV[17], ARGV[18], now)
  if limit then return { 'LIMIT', limit, wait } end
end
-- The index prevents a second submit: a job leaves it only after its hash has expired
-- (prune_index.lua), and an expired id may be used again.
if redis.call('ZADD', index, 'NX', at, id) == 0 then
  local existing = redis.call('HMGET', status(id), 'spec', 'owner')
  if existing[1] then return { 'EXISTS', existing[1], existing[2] or '' } end
  redis.call('ZADD', index, at, id)
end
on_error(function()
  redis.pcall('DEL', status(id))
  for _, set in ipairs({ index, uploading, scheduled }) do redis.pcall('ZREM', set, id) end
  pcall(dequeue, class, id)
end)
if owner ~= '' then
  count_job(owner, id, now, ARGV[17], ended)
  list_job(owner, id, at)
end
local state = how == 'uploading' and 'uploading' or 'queued'
local ms = event(id, state)
local rank = ms - boost
redis.call('HSET', status(id), 'spec', spec, 'state', state, 'max', max, 'boost', boost, 'hook', hook,
  'keep', keep, 'owner', owner, 'created', ms, 'rank', rank, 'attempt', 0, 'epoch', 0,
  'life', 0, 'trace', ARGV[11], 'keep_input', ARGV[12], 'keep_outputs', ARGV[13],
  'queued', how == 'queued' and ms or '', 'retry', how == 'delayed' and ms + wait or '', class_fields(class, VERSION))
if how == 'uploading' then
  redis.call('ZADD', uploading, ms + wait, id)
elseif how == 'delayed' then
  redis.call('ZADD', scheduled, by_clock(ms) + wait, id)
  ring(class, id)
else
  enqueue(class, rank, id)
  ring(class, id)
end
return { 'CREATED', ms }
