%% @doc What Python finds in `client_info': the map that came with a descriptor, with the address as text.
%% @private
-module(py_info).

-export([normalise/1]).
-export_type([info/0]).

-type info() :: #{atom() | binary() | string() => term()}.
%% `addr' may be a tuple, a string or a binary, and is a binary afterwards; `port' is an integer, `type' an atom such as
%% `tcp', `udp' or `unix'. Any other key is passed on as it is.

%% Keys that are strings become binaries; an address becomes the text that Python expects.
-spec normalise(term()) -> {ok, #{atom() | binary() => term()}} | {error, {bad_info, binary()}}.
normalise(Info) when is_map(Info) ->
    try
        {ok, maps:from_list([pair(Key, Value) || {Key, Value} <- maps:to_list(Info)])}
    catch
        throw:{bad_info, Why} -> {error, {bad_info, unicode:characters_to_binary(Why)}}
    end;
normalise(_Info) ->
    {error, {bad_info, <<"the info of a connection is a map">>}}.

-spec pair(term(), term()) -> {atom() | binary(), term()}.
pair(Key, Value) when is_list(Key) ->
    pair(text(Key, "a key"), Value);
pair(Key, Value) when Key =:= addr; Key =:= <<"addr">> ->
    {Key, address(Value)};
pair(Key, Value) when is_atom(Key); is_binary(Key) ->
    {Key, Value};
pair(Key, _Value) ->
    throw({bad_info, io_lib:format("a key is an atom or a text, not ~tp", [Key])}).

-spec address(term()) -> binary().
address({local, Path}) ->
    text(Path, "the path of addr");
address(Address) when is_tuple(Address) ->
    case inet:ntoa(Address) of
        {error, einval} -> throw({bad_info, io_lib:format("addr is no IP address: ~tp", [Address])});
        Text -> list_to_binary(Text)
    end;
address(Address) ->
    text(Address, "addr").

-spec text(term(), string()) -> binary().
text(Value, What) when is_binary(Value); is_list(Value) ->
    try unicode:characters_to_binary(Value) of
        Text when is_binary(Text) -> Text;
        _Invalid -> throw({bad_info, [What, " is not valid text"]})
    catch
        error:badarg -> throw({bad_info, [What, " is not valid text"]})
    end;
text(Value, What) ->
    throw({bad_info, io_lib:format("~s is a text or an address, not ~tp", [What, Value])}).
